# SPDX-License-Identifier: Apache-2.0
"""USB: one device is not authorized any more, or new ones are not; undone, each switch is as it was.

Journey: execute -> [usb] -> sysfs (`authorized`, `authorized_default`).

The kernel takes the drivers off a device that is not authorized; it stays powered. A hub takes what hangs below it
along. Never the device that a file system of the system lies on, nor the last road to the enterprise.
"""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.network import roads
from mamplus_host.executor.shape import Facts, State
from mamplus_host.executor.steps import step
from mamplus_host.executor.storage import mounts
from mamplus_host.mountinfo import mounted
from mamplus_host.verdicts import ActionKind

_NAME = re.compile(r"\d{1,3}-\d{1,3}(\.\d{1,3}){0,6}")  # 1-2.3: bus, port, port of the hub there
_ROOT = re.compile(r"usb\d{1,3}")
SYSTEM_MOUNTS = ("/", "/boot", "/boot/efi", "/usr", "/var", "/etc", "/home", "/var/lib")
NOT_AUTHORIZED, AUTHORIZED = "0", "1"

Switch = dict[str, str]  # name, file, was, and what device it is


class Usb:
    """The deed."""

    kind = ActionKind.USB
    has_inverse = True
    is_slow = True

    def __init__(
        self, enterprise: Callable[[], Iterable[str]], *, sys_root: Path = Path("/sys"),
        mounts: Path = Path("/proc/1/mountinfo"),
    ) -> None:  # fmt: skip
        self._enterprise, self._sys, self._mounts = enterprise, sys_root, mounts

    def prepare(self, action_id: str, target: dict[str, Any]) -> Facts:
        """Say which switches are meant.

        `target`: `device`, as 1-2.3; `medium`, major:minor of a file system on it; `file`, what lies on it; or `new`:
        whatever is plugged in from now on.
        """
        medium, file = str(target.get("medium", "")), str(target.get("file", ""))
        name = self._carrier(medium, file) if medium or file else str(target.get("device", ""))
        switches = self._defaults() if target.get("new") else [self._one(name)]
        if not switches:
            raise ActionFailed("this device has no USB bus that could be closed to new devices")
        if all(one["was"] == NOT_AUTHORIZED for one in switches):
            raise ActionFailed(f"USB {switches[0]['name']!r}: not authorized already")
        return {"id": action_id, "switches": switches}

    def _defaults(self) -> list[Switch]:
        found = []
        for place in sorted(self._devices().glob("usb*")):
            was = _read(place / "authorized_default")
            if _ROOT.fullmatch(place.name) and was:
                found.append({"name": place.name, "file": "authorized_default", "was": was, "is": ""})
        return found

    def _one(self, name: str) -> Switch:
        place = self._devices() / name
        if not _NAME.fullmatch(name):
            raise ActionFailed(f"{name!r} is no USB device; want its place, as 1-2.3: see lsusb -t")
        was = _read(place / "authorized")
        if not was:
            raise ActionFailed(f"no USB device is at {name!r}")
        self._spare(name, place.resolve())
        return {"name": name, "file": "authorized", "was": was, "is": _who(place)}

    def _carrier(self, medium: str, file: str) -> str:
        """Return the name of the device that a file system lies on: `medium`, or else that of `file`."""
        process = self._mounts.parent
        mount = mounts.of_device(medium, process) if medium else mounts.carrying(file, process)
        # Of a medium that is mounted where process 1 does not see it, the number has to do.
        nodes = mounts.blocks_of(mount, process, self._sys) if mount else [self._sys / "dev/block" / medium]
        for node in [below for one in nodes for below in _and_below(one)]:
            for part in reversed(node.parts):
                if _NAME.fullmatch(part):
                    return part
        raise ActionFailed(f"{repr(file) if file else 'device ' + medium} lies on no USB device")

    def _spare(self, name: str, place: Path) -> None:
        for point in self._mounted_from(place):
            if point in SYSTEM_MOUNTS:
                raise ActionFailed(f"{point!r} lies on USB device {name!r}: it stays")
        found = roads.interfaces(self._enterprise(), sys_root=self._sys)
        lost = {one for one in found if roads.device_of(one, self._sys).is_relative_to(place)}
        if found and found == lost:
            raise ActionFailed(f"USB device {name!r} is the only road to the enterprise ({', '.join(sorted(lost))})")

    def _mounted_from(self, place: Path) -> list[str]:
        """Return where file systems of the block devices below `place` are mounted."""
        process = self._mounts.parent
        return [
            mount.point for mount in mounted(process)
            for node in mounts.blocks_of(mount, process, self._sys)
            if any(one.is_relative_to(place) for one in _and_below(node))
        ]  # fmt: skip

    def do(self, facts: Facts) -> str:
        for one in facts["switches"]:
            step("usb.off")
            self._write(one, NOT_AUTHORIZED)
        first = facts["switches"][0]
        what = f"USB device {first['name']} ({first['is']})" if first["is"] else "new USB devices"
        return f"{what}: not authorized"

    def undo(self, facts: Facts) -> str:
        for one in facts["switches"]:
            step("usb.back")
            self._write(one, one["was"])
        return "USB is as it was"

    def verify(self, facts: Facts) -> State:
        seen = [(self._now(one), one["was"]) for one in facts["switches"]]
        seen = [(now, was) for now, was in seen if now]  # the others are unplugged
        if any(was != NOT_AUTHORIZED for _now, was in seen) and all(now == NOT_AUTHORIZED for now, _was in seen):
            return State.DONE
        return State.UNDONE if all(now == was for now, was in seen) else State.BETWEEN

    def _now(self, one: Switch) -> str:
        """Return what the switch says; "" when that device is not there any more."""
        place = self._devices() / one["name"]
        return "" if one["is"] and _who(place) != one["is"] else _read(place / one["file"])

    def _write(self, one: Switch, value: str) -> None:
        if self._now(one) in ("", value):
            return
        path = self._devices() / one["name"] / one["file"]
        try:
            path.write_text(value)
        except OSError as error:
            raise ActionFailed(f"the kernel does not take {value} for {str(path)!r}: {error.strerror}") from None

    def _devices(self) -> Path:
        return self._sys / "bus/usb/devices"


def _who(place: Path) -> str:
    """Return what the device at `place` says it is; another one may be plugged in there later."""
    words = (_read(place / word) for word in ("idVendor", "idProduct", "serial", "devnum"))
    return ":".join(words) if (place / "idVendor").exists() else ""


def _and_below(node: Path) -> list[Path]:
    """Return a block device and those that it is made of (LUKS, LVM), as places in the tree of devices."""
    found: list[Path] = []
    waiting = [node]
    while waiting and len(found) < 64:
        one = waiting.pop()
        if one.exists():
            found.append(Path(os.path.realpath(one)))
            waiting += list((found[-1] / "slaves").glob("*"))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
