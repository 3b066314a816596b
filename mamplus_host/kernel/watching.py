# SPDX-License-Identifier: Apache-2.0
"""The agent's side of the fanotify tier: which file systems the responder marks, and what it says of them.

Everything is said through the memory-mapped map `watch` (mamplus_watch.h), so neither side waits for the other; a
SIGHUP only makes the responder look at once instead of within a second. What was wanted stays there: a responder that
is started later, or that lives through the agent's end, goes by it.
"""

import contextlib
import mmap
import os
import re
import signal
import struct
import time
from collections.abc import Iterable
from pathlib import Path

from mamplus_host.config import CGROUP2_MOUNTS, Config, cgroup_dir, cgroup_path
from mamplus_host.errors import ConfigInvalid
from mamplus_host.kernel import layout
from mamplus_host.kernel.bpf import Fd

APPLY_S = 5.0  # for the responder to mark what is wanted; a network file system may take its time
_LOOK_S = 0.005
_ANSWERS = {"allow": layout.ANSWER_ALLOW, "refuse": layout.ANSWER_REFUSE}
_COUNTERS = {
    "events": layout.W_EVENTS, "refused": layout.W_REFUSED, "waited": layout.W_WAITED, "declared": layout.W_DECLARED,
    "no_room": layout.W_NO_ROOM, "hashed": layout.W_HASHED, "written": layout.W_WRITTEN,
    "unhashed": layout.W_UNHASHED, "overflow": layout.W_OVERFLOW, "marked": layout.W_MARKED,
    "unmarked": layout.W_UNMARKED, "dropped": layout.W_DROPPED, "kept": layout.W_KEPT,
    "kept_starts": layout.W_KEPT_STARTS, "unasked": layout.W_UNASKED, "keeper_lost": layout.W_KEEPER_LOST,
}  # fmt: skip
_HOW = {layout.WATCH_FILESYSTEM: "file system", layout.WATCH_MOUNT: "mount"}
LOSSES = (
    "no_room",
    "unhashed",
    "overflow",
    "unmarked",
    "unasked",
)  # of the counters: what was not done as it should be


def require_paths(config: Config) -> None:
    """Raise ConfigInvalid when `[exec] fanotify` names what is no path, or more than can be marked."""
    paths = config.exec.fanotify
    if len(paths) > layout.WATCH_PATHS:
        raise ConfigInvalid(f"[exec] fanotify names {len(paths)} paths, want at most {layout.WATCH_PATHS}")
    for path in paths:
        if not path.startswith("/") or len(os.fsencode(path)) >= layout.WATCH_PATH_LEN or "\0" in path:
            raise ConfigInvalid(
                f"[exec] fanotify: {path!r}; want a path that begins with / and has fewer than"
                f" {layout.WATCH_PATH_LEN} bytes"
            )
        if not os.path.exists(path):
            raise ConfigInvalid(f"[exec] fanotify: there is no {path!r}; mount it first, or take it out")


class Watching:
    """The map `watch`, as the agent sees it."""

    def __init__(self, directory: Path) -> None:
        """`directory`: where the pins lie. KernelRefused when there is none of this tier."""
        pages = -(-layout.WATCH.size // mmap.PAGESIZE)
        with Fd.open(directory / "watch") as watch:
            self._memory = mmap.mmap(watch.number, pages * mmap.PAGESIZE)

    def close(self) -> None:
        self._memory.close()

    def ask(self, config: Config, responder_pidfd: int) -> dict[str, str]:
        """Have the responder mark what `config` names, and wait for it; return what is wrong, by path."""
        paths = [os.fsencode(path) for path in config.exec.fanotify]
        if not paths and not self._number("paths"):
            return {}
        for at, path in enumerate(paths):
            self._put_path(at, path)
        self._put("paths", len(paths))
        self._put("on_open", _ANSWERS[config.exec.on_open])
        self._put("is_everything", cgroup_dir(config) in map(Path, CGROUP2_MOUNTS))
        self._put("scope", cgroup_path(config).rstrip("/").encode(errors="surrogateescape"))
        self._put("wanted", self._number("wanted") + 1)
        poke(responder_pidfd)
        return self._await_applied()

    def paths(self) -> dict[str, str]:
        """Return for each wanted path how it is marked: "file system", "mount", or "no: " and why."""
        return {path: f"no: {_why(error)}" if error else _HOW.get(how, "no") for path, error, how in self._marked()}

    def counters(self) -> dict[str, int]:
        """Return the counters since the maps were made."""
        values = memoryview(self._field("counter")).cast("Q")
        return {name: values[at] for name, at in _COUNTERS.items()}

    def losses(self) -> dict[str, int]:
        """Return the counters of what was not done as it should be, by the name that `status` shows."""
        counters = self.counters()
        return {f"fanotify_{name}": counters[name] for name in LOSSES}

    def _await_applied(self) -> dict[str, str]:
        end = time.monotonic() + APPLY_S
        while self._number("applied") != self._number("wanted"):
            if time.monotonic() > end:
                return {"": f"the responder has not answered within {APPLY_S:g} s; `status` says when it has"}
            time.sleep(_LOOK_S)
        return {path: _why(error) for path, error, _how in self._marked() if error}

    def _marked(self) -> Iterable[tuple[str, int, int]]:
        raw = self._field("path")
        for at in range(min(self._number("paths"), layout.WATCH_PATHS)):
            error, how, path = layout.WATCH_PATH.unpack_from(raw, at * layout.WATCH_PATH.size)
            yield os.fsdecode(path.partition(b"\0")[0]), error, how

    def _put_path(self, at: int, path: bytes) -> None:
        where = _PLACES["path"][0] + at * layout.WATCH_PATH.size
        layout.WATCH_PATH.pack_into(self._memory, where, 0, layout.WATCH_NOT, path)

    def _put(self, name: str, value: int | bytes) -> None:
        where, code = _PLACES[name]
        struct.pack_into(f"={code}", self._memory, where, value)

    def _number(self, name: str) -> int:
        where, code = _PLACES[name]
        return int(struct.unpack_from(f"={code}", self._memory, where)[0])

    def _field(self, name: str) -> bytes:
        where, code = _PLACES[name]
        return self._memory[where : where + struct.calcsize(f"={code}")]


def poke(responder_pidfd: int) -> None:
    """Have the responder look for something new now: paths, or another generation, whose marks it has to drop."""
    if responder_pidfd < 0:
        return
    with contextlib.suppress(ProcessLookupError):  # it has ended: its successor looks when it starts
        signal.pidfd_send_signal(responder_pidfd, signal.SIGHUP)


def _places() -> dict[str, tuple[int, str]]:
    """Return name -> (offset, format) of each field of struct mamplus_watch."""
    codes = re.findall(r"\d*[a-zA-Z]", layout.WATCH.format)
    found, where = {}, 0
    for name, code in zip(layout.WATCH_FIELDS, codes, strict=True):
        found[name] = (where, code)
        where += struct.calcsize(f"={code}")
    return found


_PLACES = _places()


def _why(error: int) -> str:
    if error == 95:  # EOPNOTSUPP, as responder_watch.c says it
        return "one of the kernel's own file systems; want one that holds programs"
    return f"{os.strerror(error)}; fanotify permission events are not possible there"
