# SPDX-License-Identifier: Apache-2.0
"""Radio: Wi-Fi, mobile data, Bluetooth and the others off; undone, each is as it was.

Journey: execute -> [radio] -> /dev/rfkill; NetworkManager and BlueZ over D-Bus where they run.

The kernel's switch comes last on the way off and first on the way back, so that a manager that looks at it meanwhile
does not bring a radio back. A radio that carries the only road to the enterprise is refused unless the target says
`last_road` and has a time limit, `ttl_s`: the executor's own, which brings it back.
"""

import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.network import roads
from mamplus_host.executor.session import bus
from mamplus_host.executor.shape import Facts, State
from mamplus_host.executor.steps import step
from mamplus_host.policy.actions import RadioName
from mamplus_host.verdicts import ActionKind

ALL: tuple[str, ...] = get_args(RadioName)
_EVENT = struct.Struct("=IBBBB")  # struct rfkill_event: idx, type, op, soft, hard
_CHANGE = 2  # RFKILL_OP_CHANGE
_MANAGER = ("org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager", "org.freedesktop.NetworkManager")
_SWITCHES = {"wlan": "WirelessEnabled", "wwan": "WwanEnabled"}
_BLUEZ, _ADAPTER = "org.bluez", "org.bluez.Adapter1"
_ABSENT = ("ServiceUnknown", "NameHasNoOwner", "UnknownObject", "UnknownMethod", "Spawn.ServiceNotFound")
MAX_SWITCHES = 64

Switch = dict[str, Any]  # kind; name; was (on before); and where: index, or service, path, interface, property


class Radio:
    """The deed."""

    kind = ActionKind.RADIO
    has_inverse = True
    is_slow = True

    def __init__(
        self, enterprise: Callable[[], Iterable[str]], *, sys_root: Path = Path("/sys"),
        device: Path = Path("/dev/rfkill"),
    ) -> None:  # fmt: skip
        """`enterprise` returns the addresses that must stay reachable."""
        self._enterprise, self._sys, self._device = enterprise, sys_root, device

    def prepare(self, action_id: str, target: dict[str, Any]) -> Facts:
        """`target`: `radios`, some of ALL, none: all; `last_road` and `ttl_s` to cut the enterprise off for a while."""
        wanted = tuple(target.get("radios") or ALL)
        unknown = [kind for kind in wanted if kind not in ALL]
        if unknown:
            raise ActionFailed(f"{unknown[0]!r} is no radio; want some of {', '.join(ALL)}")
        switches = [one for one in self._switches() if one["kind"] in wanted]
        if not switches:
            raise ActionFailed(f"this device has no radio of {', '.join(wanted)} that can be switched")
        if not any(one["was"] for one in switches):
            raise ActionFailed(f"{', '.join(sorted({one['kind'] for one in switches}))}: off already")
        self._spare_last_road(wanted, target)
        return {"id": action_id, "switches": switches[:MAX_SWITCHES]}

    def _spare_last_road(self, wanted: tuple[str, ...], target: dict[str, Any]) -> None:
        found = roads.interfaces(self._enterprise(), sys_root=self._sys)
        lost = {name for name in found if roads.kind_of(name, self._sys) in wanted}
        if found and found == lost and not (target.get("last_road") and float(target.get("ttl_s") or 0) > 0):
            raise ActionFailed(
                f"{', '.join(sorted(lost))} is the only road to the enterprise and stays; a policy that means it says"
                " last_road and ttl_s"
            )

    def do(self, facts: Facts) -> str:
        for one in sorted(facts["switches"], key=_is_kernels):
            step("radio.off")
            self._set(one, on=False)
        return "switched off " + ", ".join(sorted({f"{one['kind']} ({one['name']})" for one in facts["switches"]}))

    def undo(self, facts: Facts) -> str:
        for one in sorted(facts["switches"], key=_is_kernels, reverse=True):
            step("radio.back")
            self._set(one, on=one["was"])
        return "the radios are as they were"

    def verify(self, facts: Facts) -> State:
        now = {_key(one): one["was"] for one in self._switches()}
        seen = [(now[_key(one)], one["was"]) for one in facts["switches"] if _key(one) in now]  # others are unplugged
        if any(was for _is_on, was in seen) and not any(is_on for is_on, _was in seen):
            return State.DONE
        return State.UNDONE if all(is_on == was for is_on, was in seen) else State.BETWEEN

    # --- the switches ------------------------------------------------------------------------

    def _switches(self) -> list[Switch]:
        return [*self._of_kernel(), *self._of_manager(), *self._of_bluez()]

    def _of_kernel(self) -> list[Switch]:
        found = []
        for place in sorted((self._sys / "class/rfkill").glob("rfkill*")):
            kind, name, soft, index = (_read(place / word) for word in ("type", "name", "soft", "index"))
            if kind:
                found.append({"kind": kind, "name": name, "was": soft == "0", "index": int(index)})
        return found

    def _of_manager(self) -> list[Switch]:
        service, path, interface = _MANAGER
        answer = self._ask(bus.get_all(service, path, interface))
        if answer is None:
            return []
        said = bus.plain(answer.values[0])
        where = {"service": service, "path": path, "interface": interface}
        return [
            {"kind": kind, "name": "NetworkManager", "was": bool(said[switch]), "property": switch, **where}
            for kind, switch in _SWITCHES.items()
            if switch in said
        ]

    def _of_bluez(self) -> list[Switch]:
        manager = "org.freedesktop.DBus.ObjectManager"
        answer = self._ask(bus.Call(_BLUEZ, "/", manager, "GetManagedObjects"))
        if answer is None:
            return []
        return [
            {
                "kind": "bluetooth", "name": path.rpartition("/")[2], "was": bool(said[_ADAPTER]["Powered"][1]),
                "property": "Powered", "service": _BLUEZ, "path": path, "interface": _ADAPTER,
            }
            for path, said in answer.values[0].items()
            if _ADAPTER in said
        ]  # fmt: skip

    def _ask(self, call: bus.Call) -> bus.Answer | None:
        """Return the answer of a service, None where there is no such service, or no bus."""
        try:
            answer = bus.ask([call])[0]
        except ActionFailed:
            return None
        return None if answer.error else answer

    def _set(self, one: Switch, *, on: bool) -> None:
        if "index" in one:
            self._set_kernels(one, on=on)
            return
        answer = bus.ask([bus.set_one(one["service"], one["path"], one["interface"], one["property"], on)])[0]
        if answer.error and not answer.error.endswith(_ABSENT):  # what is gone sends nothing
            raise ActionFailed(f"{one['service']} does not switch {one['kind']}: {answer.error} {answer.text}")

    def _set_kernels(self, one: Switch, *, on: bool) -> None:
        if not any(_key(now) == _key(one) for now in self._of_kernel()):
            return  # unplugged; its number may be another radio's by now
        event = _EVENT.pack(one["index"], 0, _CHANGE, 0 if on else 1, 0)
        try:
            descriptor = os.open(self._device, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ActionFailed(f"cannot switch {one['kind']}: {str(self._device)!r}: {error.strerror}") from None
        try:
            os.write(descriptor, event)
        except OSError as error:
            raise ActionFailed(f"the kernel does not switch {one['kind']} {one['name']}: {error.strerror}") from None
        finally:
            os.close(descriptor)


def _is_kernels(one: Switch) -> bool:
    return "index" in one


def _key(one: Switch) -> tuple[Any, ...]:
    """Return what a switch is the same by: a number alone may be given to another radio."""
    return (one["kind"], one["name"], one.get("index"), one.get("path"), one.get("property"))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
