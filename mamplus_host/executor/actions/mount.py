# SPDX-License-Identifier: Apache-2.0
"""Mount: a file system is read-only or starts no programs, or a removable medium is unmounted; undone, it is as before.

Journey: execute -> [mount] -> mounts -> mount(2) in the namespace of process 1.

Read-only and noexec are given to every mount of that file system there, and to no other namespace's: a container that
has the medium mounted keeps its own. Programs that run already run on; a file that is open for writing makes read-only
fail, and says so. Never what the system or the agent lies on.
"""

from pathlib import Path
from typing import Any

import msgspec

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.shape import Facts, State
from mamplus_host.executor.steps import step
from mamplus_host.executor.storage import mounts
from mamplus_host.executor.storage.mounts import INIT
from mamplus_host.mountinfo import FLAGS, Mount, mounted
from mamplus_host.verdicts import ActionKind

WAYS = {"read-only": FLAGS["ro"], "noexec": FLAGS["noexec"], "unmount": 0}
GUARDED = (
    "/",
    "/boot",
    "/boot/efi",
    "/dev",
    "/etc",
    "/home",
    "/proc",
    "/run",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
)
UNMOUNTABLE = ("/media", "/mnt", "/run/media")  # where removable media are mounted


class MountControl:
    """The deed. `process` is the directory in /proc of a process whose mounts are meant."""

    kind = ActionKind.MOUNT
    has_inverse = True
    is_slow = True

    def __init__(
        self, *, agent: tuple[Path, ...] = (), process: Path = INIT, media: tuple[str, ...] = UNMOUNTABLE
    ) -> None:
        """`agent`: paths that the agent needs; `media`: below what anything may be unmounted."""
        self._agent, self._process, self._media = agent, process, media

    def prepare(self, action_id: str, target: dict[str, Any]) -> Facts:
        """`target`: `path`, where it is mounted, `medium`, its major:minor, or `file` on it; and `way`, one of WAYS."""
        way = str(target.get("way", "read-only"))
        if way not in WAYS:
            raise ActionFailed(f"{way!r} is no way to change a mount; want one of {', '.join(WAYS)}")
        top = self._meant(target)
        point = top.point
        same = [one for one in mounted(self._process) if one.device == top.device]
        self._spare(same, way)
        if way != "unmount" and all(one.flags & WAYS[way] for one in same):
            raise ActionFailed(f"{point!r} is {way} already")
        wanted = [top] if way == "unmount" else same
        return {"id": action_id, "way": way, "mounts": [msgspec.to_builtins(one) for one in wanted]}

    def _meant(self, target: dict[str, Any]) -> Mount:
        file = str(target.get("file", ""))
        if medium := str(target.get("medium", "")):
            found, what = mounts.of_device(medium, self._process), f"of device {medium}"
        elif file:
            found, what = mounts.carrying(file, self._process), f"at {file!r}"
        else:
            point = str(target.get("path", ""))
            found, what = mounts.at(point, self._process), f"at {point!r}"
        if found is None:
            raise ActionFailed(f"nothing is mounted {what}; findmnt shows what is")
        return found

    def _spare(self, found: list[Mount], way: str) -> None:
        for one in found:
            carries = [str(path) for path in self._agent if self._device_of(path) == one.device]
            if one.point in GUARDED or carries:
                why = f"the agent's {carries[0]!r} lies there" if carries else f"the system needs {one.point!r}"
                raise ActionFailed(f"that file system is not touched: {why}")
            if way == "unmount" and not any(one.point.startswith(media.rstrip("/") + "/") for media in self._media):
                raise ActionFailed(f"{one.point!r} is no removable medium ({', '.join(self._media)}); want read-only")

    def _device_of(self, path: Path) -> str:
        found = mounts.carrying(path, self._process)
        return found.device if found is not None else ""

    def do(self, facts: Facts) -> str:
        for one in _kept(facts):
            now = self._now(one)
            if now is None:
                continue
            step("mount.change")
            if facts["way"] == "unmount":
                mounts.unmount(one.point, self._process)
            else:
                mounts.set_flags(now, now.flags | WAYS[facts["way"]], self._process)
        points = ", ".join(repr(one.point) for one in _kept(facts))
        return f"unmounted {points}" if facts["way"] == "unmount" else f"{points}: {facts['way']} now"

    def undo(self, facts: Facts) -> str:
        for one in _kept(facts):
            now = self._now(one)
            step("mount.back")
            if now is not None:
                mounts.set_flags(now, one.flags, self._process)
            elif facts["way"] == "unmount" and mounts.at(one.point, self._process) is None:
                mounts.mount_again(one, self._process)
            elif facts["way"] == "unmount":
                raise ActionFailed(f"another file system is mounted at {one.point!r}: unmount it, and say undo again")
        return ", ".join(repr(one.point) for one in _kept(facts)) + ": mounted as before"

    def verify(self, facts: Facts) -> State:
        seen = [(self._now(one), one) for one in _kept(facts)]
        if facts["way"] == "unmount":
            is_back = all(now is not None and now.flags == one.flags for now, one in seen)
            return State.UNDONE if is_back else State.DONE if all(now is None for now, _one in seen) else State.BETWEEN
        here = [(now, one) for now, one in seen if now is not None]  # the others were unmounted since
        flag = WAYS[facts["way"]]
        changes = any(not one.flags & flag for _now, one in here)
        if changes and all(now.flags == one.flags | flag for now, one in here):
            return State.DONE
        return State.UNDONE if all(now.flags == one.flags for now, one in here) else State.BETWEEN

    def _now(self, one: Mount) -> Mount | None:
        """Return that mount as it is now, None when it is not there: by place and source, numbers change at a boot."""
        now = mounts.at(one.point, self._process)
        return now if now is not None and (now.source, now.kind, now.root) == (one.source, one.kind, one.root) else None


def _kept(facts: Facts) -> list[Mount]:
    return msgspec.convert(facts["mounts"], list[Mount])
