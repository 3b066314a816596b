# SPDX-License-Identifier: Apache-2.0
"""Looks again at what runs already: a list that arrives later than the program still ends it.

Journey: generation -> [sweep] -> pipeline.

When a generation is in force, and after a start, the executables and executable mappings of every process in the
scope are looked at: by /proc/PID/exe and /proc/PID/map_files, so that no path is followed and a deleted file is
found too. Their content comes from the kernel's `known` map, or else from mamplus-hash, which ends when it is done.
A helper and not the responder: that one must answer who waits, and has no room for thousands of files.

Looking and hashing run in a thread; what is listed is handed to the service's loop, as an event like that of a
start. Processes that no action may touch are left out. Files beyond `MAX_FILES` are counted, not looked at.
"""

import logging
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from mamplus_host.collector import in_use
from mamplus_host.events import NO_SLOT, Event, Exec, File, FileAccess, Head
from mamplus_host.kernel import pins
from mamplus_host.kernel.tables import Tables
from mamplus_host.verdicts import Indicator, Verdict

LOG = logging.getLogger("mamplus")
MAX_FILES = 4096  # different ones in one sweep
MAX_REMEMBERED = 1024  # contents kept until the next sweep
HASH_S = 120.0  # for the helper; what it has not hashed by then waits for the next sweep
LINKS_A_FILE = 3  # processes that it is opened through, should the first have ended
_LISTED = (Verdict.SUSPECT, Verdict.BLOCK)
_MAPPING = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) ..x. [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) (\d+)(?: +(.*))?$", re.MULTILINE
)


class Place(msgspec.Struct, frozen=True):
    """Where a file runs: in a process, through one link in /proc."""

    tgid: int
    link: str
    path: str  # as the kernel names it: to be shown, never to be followed
    is_program: bool  # else a library, or whatever else is mapped to be executed
    boot_ns: int  # of the look


class Asks(msgspec.Struct, frozen=True):
    """What the sweep asks others."""

    content: Callable[[Indicator], Verdict]  # what the list in force says of a SHA-256
    start: Callable[[str, int], Verdict]  # and of a program's path and user
    spared: Callable[[], frozenset[int]]  # processes that are never touched
    boot_ns: Callable[[], int]
    generation: Callable[[], int]


class Sweep:
    """One at a time; asked for again meanwhile, it begins again when it has ended."""

    def __init__(
        self, cgroup: Path, tables: Tables, asks: Asks, *,
        post: Callable[[Callable[[], object]], object], take: Callable[[Iterable[Event]], object],
    ) -> None:  # fmt: skip
        """`post` has the service's loop call something; `take` is the pipeline's."""
        self._cgroup, self._tables, self._asks = cgroup, tables, asks
        self._post, self._take = post, take
        self._lock = threading.Lock()
        self._is_running = self._is_wanted = False
        self._remembered: dict[File, str] = {}
        self.counts = {"sweeps": 0, "files": 0, "hashed": 0, "unread": 0, "left_out": 0, "found": 0}

    def start(self) -> None:
        """Look at everything, now or after the sweep that runs."""
        with self._lock:
            self._is_wanted = True
            if self._is_running:
                return
            self._is_running = True
        threading.Thread(target=self._run, name="sweep", daemon=True).start()

    def _run(self) -> None:
        try:
            while self._claim():
                self._sweep()
        except Exception:  # the thread's edge: what runs stays as it is, and the next generation tries again
            LOG.exception("a sweep failed; the next generation begins another")
            with self._lock:
                self._is_running = False

    def _claim(self) -> bool:
        with self._lock:
            self._is_running, self._is_wanted = self._is_wanted, False
            return self._is_running

    def _sweep(self) -> None:
        self.counts["sweeps"] += 1
        places: dict[File, list[Place]] = {}
        for file, place in self._running():
            if file in places or len(places) < MAX_FILES:
                places.setdefault(file, []).append(place)
            else:
                self.counts["left_out"] += 1
        self.counts["files"] = len(places)
        contents = self._contents(places)
        self._post(lambda: self._judge(places, contents))

    def _running(self) -> Iterator[tuple[File, Place]]:
        spared = self._asks.spared() | {1}
        for tgid in in_use.tasks(self._cgroup):
            if tgid not in spared:
                yield from running(tgid, self._asks.boot_ns())

    # --- contents --------------------------------------------------------------------------------

    def _contents(self, places: dict[File, list[Place]]) -> dict[File, str]:
        """Return the SHA-256 of as many of the files as can be had."""
        found = {file: sha256 for file in places if (sha256 := self._known(file))}
        unknown = {file: some for file, some in places.items() if file not in found}
        hashed = hash_links({place.link: file for file, some in unknown.items() for place in some[:LINKS_A_FILE]})
        for file in unknown.keys() - hashed.keys():  # the open may have been refused: then it is known by now
            if sha256 := self._tables.known(file):
                hashed[file] = sha256
        self.counts["hashed"] += len(hashed)
        self.counts["unread"] = len(unknown) - len(hashed)
        kept = {file: sha256 for file, sha256 in (found | hashed).items() if _keeps_its_ctime(file)}
        self._remembered = dict(list(kept.items())[:MAX_REMEMBERED])
        return found | hashed

    def _known(self, file: File) -> str:
        return self._remembered.get(file, "") or self._tables.known(file, believed=True)

    # --- in the service's loop -------------------------------------------------------------------

    def _judge(self, places: dict[File, list[Place]], contents: dict[File, str]) -> None:
        for file, some in places.items():
            sha256 = contents.get(file, "")
            verdict = self._asks.content(Indicator("sha256", sha256)) if sha256 else Verdict.NOTHING
            for place in some:
                if self._is_listed(verdict, place) and still_runs(place, file):
                    self.counts["found"] += 1
                    self._take([self._event(place, file, sha256, verdict)])

    def _is_listed(self, verdict: Verdict, place: Place) -> bool:
        if verdict in _LISTED:
            return True
        return place.is_program and verdict is Verdict.NOTHING and self._start_verdict(place) in _LISTED

    def _start_verdict(self, place: Place) -> Verdict:
        try:
            return self._asks.start(place.path, os.stat(f"/proc/{place.tgid}").st_uid)
        except OSError:
            return Verdict.NOTHING  # it has ended

    def _event(self, place: Place, file: File, sha256: str, verdict: Verdict) -> Event:
        said = _status(place.tgid)
        head = Head(
            boot_ns=place.boot_ns, cgroup_id=0, generation=self._asks.generation(), tgid=place.tgid,
            ppid=int(said.get("PPid", "0")), uid=int(said.get("Uid", "0").split()[0]), slot=NO_SLOT, flags=0,
            verdict=verdict, comm=said.get("Name", ""),
        )  # fmt: skip
        if place.is_program:
            return Exec(head, file, sha256, place.path)
        return FileAccess(head, file, sha256, "map-exec", place.path)


def running(tgid: int, boot_ns: int) -> Iterator[tuple[File, Place]]:
    """Yield the program and the executable mappings of a process, each file once; nothing when it has ended."""
    try:
        maps = Path(f"/proc/{tgid}/maps").read_bytes().decode(errors="surrogateescape")
        exe = os.stat(f"/proc/{tgid}/exe")
    except OSError:
        return  # ended meanwhile, or a kernel thread
    seen = set()
    for mapping in _MAPPING.finditer(maps):
        start, end, major, minor, ino, path = mapping.groups()
        key = (int(major, 16) << 20 | int(minor, 16), int(ino))
        if int(ino) == 0 or key in seen:
            continue
        seen.add(key)
        link = f"/proc/{tgid}/map_files/{int(start, 16):x}-{int(end, 16):x}"
        is_program = (exe.st_ino, _device(exe.st_dev)) in ((key[1], key[0]), (key[1], _shown_device(link)))
        if (file := _identity(link, *key)) is not None:
            yield file, Place(tgid, link, (path or "").removesuffix(" (deleted)"), is_program, boot_ns)


def still_runs(place: Place, file: File) -> bool:
    """Say whether the process still has what was looked at: it may have ended, or started another program."""
    try:
        return os.stat(place.link).st_ino == file.ino
    except OSError:
        return False


def hash_links(links: dict[str, File]) -> dict[File, str]:
    """Return the SHA-256 of the files behind links in /proc, of those that are still what was looked at."""
    if not links:
        return {}
    helper = subprocess.Popen(
        [pins.HASHER, "--idle"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="replace"
    )
    try:
        said, _nothing = helper.communicate("".join(f"{link}\n" for link in links), timeout=HASH_S)
    except subprocess.TimeoutExpired:
        helper.kill()
        said, _nothing = helper.communicate()
    found = {}
    for line in said.splitlines():
        sha256, size, ctime_s, ctime_ns, link = line.split(" ", 4)
        file = links.get(link)
        if file is not None and (int(size), int(ctime_s), int(ctime_ns)) == (file.size, file.ctime_s, file.ctime_ns):
            found[file] = sha256
    return {file: sha256 for file, sha256 in found.items() if sha256 != "-"}


def _identity(link: str, dev: int, ino: int) -> File | None:
    """Return what the kernel's probes know the file by: device and inode of the mapping, the rest by stat(2)."""
    try:
        stat = os.stat(link)
    except OSError:
        return None
    ctime_s, ctime_ns = divmod(stat.st_ctime_ns, 1_000_000_000)
    return File(dev, ino, stat.st_size, ctime_s, ctime_ns, stat.st_mode)


def _device(shown: int) -> int:
    return os.major(shown) << 20 | os.minor(shown)


def _shown_device(link: str) -> int:
    """Return what stat(2) shows: on btrfs another number than the mapping's."""
    try:
        return _device(os.stat(link).st_dev)
    except OSError:
        return 0


def _keeps_its_ctime(file: File) -> bool:
    """Say whether a change of the file shows in its identity: not on tmpfs and its like, whose devices have major 0."""
    return file.dev >> 20 != 0


def _status(tgid: int) -> dict[str, str]:
    try:
        text = Path(f"/proc/{tgid}/status").read_bytes().decode(errors="surrogateescape")
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.split("\n"))}
