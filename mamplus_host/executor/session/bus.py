# SPDX-License-Identifier: Apache-2.0
"""Calls on D-Bus, made by a short-lived helper: who locks screens, shows words and switches radios listens there.

Journey: sessions, notify, lock, radio -> [bus] -> bus_helper -> D-Bus services.

Whoever answers on a user's own bus is that user's program: its answers are bounded in time and size, and believed
no further than that. The helper becomes that user before it talks to it.
"""

from typing import Any

import msgspec

from mamplus_host.executor import helper

SYSTEM = "SYSTEM"  # the system's bus, as DBUS_SYSTEM_BUS_ADDRESS or the usual place has it
ANSWER_S = 3.0  # for one call
HELPER_S = 15.0  # for all of them
MAX_CALLS = 64
MAX_ANSWER_BYTES = 1 << 20


class Call(msgspec.Struct, frozen=True):
    """One method call. A variant among the arguments is a list: its signature, its value."""

    service: str
    path: str
    interface: str
    method: str
    signature: str = ""
    arguments: tuple[Any, ...] = ()


class Answer(msgspec.Struct, frozen=True):
    """What came back: `values`, or the name and the words of an error."""

    values: list[Any] = []
    error: str = ""
    text: str = ""


class Asked(msgspec.Struct, frozen=True):
    """What the helper is told."""

    address: str
    calls: list[Call]
    uid: int = 0  # whom to be; 0: stay root


def ask(calls: list[Call], *, address: str = SYSTEM, uid: int = 0, timeout_s: float = HELPER_S) -> list[Answer]:
    """Make `calls` in order, and return an answer for each; ActionFailed when there is no such bus, or it hangs."""
    told = msgspec.json.encode(Asked(address, calls[:MAX_CALLS], uid))
    late = f"D-Bus ({address}) did not answer within {timeout_s:g} s"
    said = helper.run("session.bus_helper", within_s=timeout_s, late=late, told=told)
    return msgspec.json.decode(said[:MAX_ANSWER_BYTES], type=list[Answer])


def get_all(service: str, path: str, interface: str) -> Call:
    """Return the call that reads all properties of `interface`."""
    return Call(service, path, "org.freedesktop.DBus.Properties", "GetAll", "s", (interface,))


def set_one(service: str, path: str, interface: str, name: str, value: bool) -> Call:
    """Return the call that sets a property that is a boolean."""
    arguments = (interface, name, ["b", value])
    return Call(service, path, "org.freedesktop.DBus.Properties", "Set", "ssv", arguments)


def plain(properties: dict[str, Any]) -> dict[str, Any]:
    """Return properties without the signatures of their values."""
    return {name: value[1] for name, value in properties.items()}
