# SPDX-License-Identifier: Apache-2.0
"""Quarantine: a file leaves all of its names and lies encrypted in a box; undone, it is back bit for bit.

Journey: execute -> [quarantine] -> boxes, file system.

The box and its page are on the disk before the first name goes, and the file has its names back before the box goes:
whenever the power fails, one of the two is whole. All names of the file (hard links) on its file system are looked for,
within limits; `missing_names` says how many were not found. A file that is written while it is read is read
again, and after TRIES taken as it was read last: whoever keeps writing must not keep it in reach.

What stands at the old place when the file comes back is nobody's to overwrite: then undo fails and says so.

A file that has one name among what the device cannot do without is left alone, whatever name was meant: the programs of
BusyBox are one file.
"""

import hashlib
import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from mamplus_host.clock import Clock
from mamplus_host.errors import ActionFailed
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.shape import Facts, State
from mamplus_host.executor.steps import step
from mamplus_host.executor.storage import names
from mamplus_host.executor.storage.boxes import Boxes, Page
from mamplus_host.executor.vault.files import dress, facts_of
from mamplus_host.executor.vault.store import Facts as FileFacts
from mamplus_host.verdicts import ActionKind

TRIES = 3
MAX_NAMES = 64
MAX_WALK, WALK_S = 200_000, 2.0  # entries and seconds that other names of a file are looked for
MAX_ATTRIBUTE_BYTES = 16 << 10
TEMPORARY = ".mamplus-back-"
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,80}")
_CHUNK = 1 << 20
_BEAT_BYTES = 64 << 20  # that the slowest device reads in a few seconds


class Quarantine:
    """The deed. Its boxes are in `state/quarantine/`."""

    kind = ActionKind.QUARANTINE
    has_inverse = True
    is_slow = True

    def __init__(
        self, boxes: Boxes, guarded: GuardSet, *, clock: Clock, alive: Callable[[], object] = int
    ) -> None:  # fmt: skip
        """`alive` is called while a file is read: the watchdog must not end the agent meanwhile."""
        self._boxes, self._guarded, self._clock, self._alive = boxes, guarded, clock, alive

    def prepare(self, action_id: str, target: dict[str, Any]) -> Facts:
        """`target`: `path`; with `sha256` only that very content is taken."""
        path = names.canonical(str(target["path"]))
        self._guarded.refuse_path(path)
        try:
            if os.statvfs(os.path.dirname(path)).f_flag & os.ST_RDONLY:
                raise ActionFailed(
                    f"{path!r} lies where the agent cannot write: on a read-only medium, or not among ReadWritePaths="
                    " of its unit; systemctl edit mamplus, docs/actions.md"
                )
            descriptor = names.open_regular(path)
        except OSError as error:
            raise ActionFailed(f"cannot quarantine {path!r}: {error.strerror or error}") from None
        try:
            return self._look(action_id, path, descriptor, str(target.get("sha256", "")))
        finally:
            os.close(descriptor)

    def _look(self, action_id: str, path: str, descriptor: int, wanted: str) -> Facts:
        found = os.fstat(descriptor)
        self._boxes.want_room(found.st_size)  # before it is read: a file may say that it has any size
        sha256 = sha256_of(descriptor, self._alive)
        if wanted and wanted != sha256:
            raise ActionFailed(f"{path!r} is another file by now: its SHA-256 is {sha256}, want {wanted}")
        others = _other_names(path, found) if found.st_nlink > 1 else []
        for other in others:
            self._guarded.refuse_path(other)
        return {
            "id": action_id, "path": path, "names": others, "missing_names": found.st_nlink - 1 - len(others),
            "dev": found.st_dev, "ino": found.st_ino, "at": self._clock.wall_s(), **_page_of(descriptor, sha256),
        }  # fmt: skip

    def do(self, facts: Facts) -> str:
        page = self._boxes.page(facts["id"])
        if page is None:
            page = self._keep(facts)
        else:
            for name in _all_names(page):
                _take(name, page)
        return f"quarantined {page['path']!r}{_rest(page)}; `mamplus quarantine restore {page['id']}` brings it back"

    def _keep(self, facts: Facts) -> Page:
        """Box the file, and take all of its names while it is still open: its inode is nobody else's meanwhile."""
        try:
            descriptor = names.open_regular(facts["path"])
        except OSError as error:
            raise ActionFailed(f"{facts['path']!r} cannot be quarantined: {error.strerror or error}") from None
        try:
            found = os.fstat(descriptor)
            is_it = found.st_ino == facts["ino"] and (
                found.st_dev == facts["dev"]
                or sha256_of(descriptor, self._alive) == facts["sha256"]  # a boot may number anew
            )
            if not is_it:
                raise ActionFailed(f"{facts['path']!r} is another file by now; it stays")
            page = self._boxed(facts, descriptor)
            step("quarantine.page")
            self._boxes.write(facts["id"], page)
            for name in _all_names(page):
                _take(name, page, is_held=True)
            return page
        finally:
            os.close(descriptor)

    def _boxed(self, facts: Facts, descriptor: int) -> Page:
        """Make a box of the file as it is now; again when it was written meanwhile."""
        for _ in range(TRIES):
            before = _identity(os.fstat(descriptor))
            sha256, size = self._boxes.keep(facts["id"], descriptor, os.fstat(descriptor).st_size)
            page = {**facts, **_page_of(descriptor, sha256), "size": size}
            page["file"]["size"] = size  # as it was read; by now it may have more
            if _identity(os.fstat(descriptor)) == before:
                break
        return page

    def undo(self, facts: Facts) -> str:
        page = self._boxes.page(facts["id"])
        if page is None:
            self._boxes.drop(facts["id"])
            if names.stat_of(facts["path"]) is None:
                raise ActionFailed(f"nothing is kept of {facts['path']!r}")
            return f"{facts['path']!r} is where it was"
        here = [name for name in _all_names(page) if self._is_ours(name, page)]
        strangers = [name for name in _all_names(page) if name not in here and names.stat_of(name) is not None]
        if strangers:
            raise ActionFailed(
                f"another file is at {strangers[0]!r} by now and stays; give the quarantined one a new place:"
                f" mamplus quarantine restore {page['id']} --to PATH, or move the other one away and say undo again"
            )
        _sweep(page)
        source = here[0] if here else self._put(page, page["path"])
        for name in _all_names(page):
            if name != source and name not in here:
                step("quarantine.name")
                with names.above(source) as (old, last), names.above(name) as (new, new_last):
                    os.link(last, new_last, src_dir_fd=old, dst_dir_fd=new)
                    os.fsync(new)
        if page["file"] != facts["file"] or page["sha256"] != facts["sha256"]:
            self._boxes.remember(facts["id"], page)
        self._boxes.drop(facts["id"])
        return f"{page['path']!r} is back{_rest(page)}"

    def put_at(self, action_id: str, place: str) -> str:
        """Put a kept file at `place` where nothing is; the box stays. Returns words; ActionFailed."""
        page = self.page(action_id)
        if names.stat_of(names.canonical(place)) is not None:
            raise ActionFailed(f"something is at {place!r} already; name another place")
        self._put(page, names.canonical(place))
        return f"{page['path']!r} was put at {place!r}; it is still in quarantine, too"

    def page(self, action_id: str) -> Page:
        """Return what is kept about a file; ActionFailed when nothing is."""
        page = self._boxes.page(action_id) if _ID.fullmatch(action_id) else None
        if page is None:
            raise ActionFailed(f"nothing is in quarantine as {action_id!r}; `mamplus quarantine list` shows what is")
        return page

    def verify(self, facts: Facts) -> State:
        page = self._boxes.page(facts["id"])
        if page is not None:
            is_out = not any(self._is_ours(name, page) for name in _all_names(page))
            is_kept = self._boxes.is_whole(facts["id"], page["size"])
            return State.DONE if is_out and is_kept else State.BETWEEN
        if self._boxes.box(facts["id"]).exists():
            return State.BETWEEN
        is_back = _is_as_before(facts) or _is_as_before(self._boxes.was(facts["id"]) or facts)
        return State.UNDONE if is_back else State.BETWEEN

    def _put(self, page: Page, place: str) -> str:
        """Write the file beside its place, dress it, and give it its name where nothing has that; return it."""
        temporary = f"{TEMPORARY}{page['id']}"
        try:
            with names.above(place) as (directory, name):
                flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=directory)
                descriptor = os.open(temporary, flags | os.O_EXCL, 0o600, dir_fd=directory)
                try:
                    self._fill(descriptor, page)
                    self._boxes.write(page["id"], {**page, "back": os.fstat(descriptor).st_ino})
                    step("quarantine.back")
                    os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
                    os.fsync(directory)
                    step("quarantine.linked")
                finally:
                    os.close(descriptor)
                    os.unlink(temporary, dir_fd=directory)
        except OSError as error:
            raise ActionFailed(f"cannot put {place!r} back: {error.strerror or error}; the box stays") from None
        return place

    def _fill(self, descriptor: int, page: Page) -> None:
        content = self._boxes.unpack(page["id"], descriptor, page["size"])
        if content != (page["sha256"], page["size"]):
            raise ActionFailed(f"the box of {page['id']} does not hold what was put into it; nothing was changed")
        dress(descriptor, _file_facts(page))
        os.fsync(descriptor)

    def _is_ours(self, name: str, page: Page) -> bool:
        """Whether at `name` is the quarantined file itself, or what undo made of the box; by inode and content."""
        found = names.stat_of(name)
        if found is None or found.st_ino not in (page["ino"], page.get("back", 0)):
            return False
        return bool(found.st_size == page["size"] and _content_at(name, self._alive) == page["sha256"])


def sha256_of(descriptor: int, alive: Callable[[], object] = int) -> str:
    digest, at = hashlib.sha256(), 0
    while chunk := os.pread(descriptor, _CHUNK, at):
        digest.update(chunk)
        at += len(chunk)
        if at % _BEAT_BYTES == 0:
            alive()
    return digest.hexdigest()


def _content_at(path: str, alive: Callable[[], object]) -> str:
    try:
        descriptor = names.open_regular(path)
    except OSError:
        return ""
    try:
        return sha256_of(descriptor, alive)
    finally:
        os.close(descriptor)


def _page_of(descriptor: int, sha256: str) -> dict[str, Any]:
    """Return content and clothes of an open file as plain JSON."""
    facts = facts_of(descriptor)
    size = sum(len(name) + len(value) for name, value in facts.xattrs)
    if size > MAX_ATTRIBUTE_BYTES:
        raise ActionFailed(f"the file has {size} bytes of attributes, want at most {MAX_ATTRIBUTE_BYTES}")
    return {"sha256": sha256, "size": facts.size, "file": msgspec.to_builtins(facts)}


def _file_facts(page: Page) -> FileFacts:
    return msgspec.convert(page["file"], FileFacts)


def _all_names(page: Page) -> list[str]:
    return [page["path"], *page["names"]]


def _rest(page: Page) -> str:
    missing = page["missing_names"]
    return f"; {missing} more name(s) of it were not found: find them with find -inum {page['ino']}" if missing else ""


def _take(name: str, page: Page, *, is_held: bool = False) -> None:
    """Remove `name` where it is still the boxed file; `is_held`: it is open, so its inode alone says that."""
    found = names.stat_of(name)
    if found is None or found.st_ino != page["ino"]:
        return
    is_same = (found.st_size, found.st_mtime_ns) == (page["size"], page["file"]["mtime_ns"])
    if not (is_held or is_same):
        return  # another file was given that inode
    step("quarantine.take")
    with names.above(name) as (directory, last):
        os.unlink(last, dir_fd=directory)
        os.fsync(directory)


def _sweep(page: Page) -> None:
    """Remove what an interrupted undo left beside the old place."""
    with suppress(OSError), names.above(page["path"]) as (directory, _name):
        os.unlink(f"{TEMPORARY}{page['id']}", dir_fd=directory)
        os.fsync(directory)


def _is_as_before(facts: Facts) -> bool:
    try:
        descriptor = names.open_regular(facts["path"])
    except OSError:
        return False
    try:
        seen, wanted = facts_of(descriptor), _file_facts(facts)
        # What came back is another inode: that its names are one file is looked at below.
        same = msgspec.structs.replace(seen, atime_ns=wanted.atime_ns, inode=wanted.inode) == wanted
        found = os.fstat(descriptor)
        has_names = all(_is_inode(name, found) for name in facts["names"])
        return same and has_names and sha256_of(descriptor) == facts["sha256"]
    finally:
        os.close(descriptor)


def _is_inode(name: str, wanted: os.stat_result) -> bool:
    found = names.stat_of(name)
    return found is not None and (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _other_names(path: str, wanted: os.stat_result) -> list[str]:
    """Return the other names of a file on its file system, as many as are found within the limits."""
    found: list[str] = []
    waiting, seen, end = [_top(path, wanted.st_dev)], 0, time.monotonic() + WALK_S
    while waiting and seen < MAX_WALK and time.monotonic() < end and len(found) < min(MAX_NAMES, wanted.st_nlink - 1):
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                seen += 1
                if entry.inode() == wanted.st_ino and entry.path != path and _is_inode(entry.path, wanted):
                    found.append(entry.path)
                elif _is_on(entry, wanted.st_dev):
                    waiting.append(entry.path)
    return found[:MAX_NAMES]


def _top(path: str, device: int) -> str:
    """Return the directory at the top of the file system that `path` lies on."""
    top = os.path.dirname(path)
    while top != "/" and os.stat(os.path.dirname(top)).st_dev == device:
        top = os.path.dirname(top)
    return top


def _is_on(entry: "os.DirEntry[str]", device: int) -> bool:
    """Whether the entry is a directory of that file system."""
    found = entry.stat(follow_symlinks=False)
    return stat.S_ISDIR(found.st_mode) and found.st_dev == device
