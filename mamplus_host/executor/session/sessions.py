# SPDX-License-Identifier: Apache-2.0
"""Who sits at this device: the sessions that logind knows, or, without it, the terminals that utmp names.

Journey: notify, lock -> [sessions] -> bus (org.freedesktop.login1), /run/utmp.
"""

import os
import pwd
import stat
import struct
from pathlib import Path

import msgspec

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.session import bus

LOGIN, MANAGER, SESSION = "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Session"
GRAPHICAL = ("x11", "wayland", "mir")
MAX_SESSIONS = 32
UTMP = Path("/run/utmp")
MAX_UTMP_BYTES = 1 << 20
_UTMP = struct.Struct("<h2xi32s4s32s256s")  # the part that matters; a record has 384 bytes on Linux
_UTMP_BYTES, _USER_PROCESS = 384, 7


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One session of a person."""

    id: str
    path: str  # of its object; "": logind does not know it
    uid: int
    user: str
    type: str  # x11, wayland, mir, tty, unspecified
    tty: str  # below /dev, "" when it has none
    is_locked: bool  # what its screen locker says

    @property
    def is_graphical(self) -> bool:
        return self.type in GRAPHICAL


def sessions() -> list[Session]:
    """Return the sessions of people, without greeters; ActionFailed where no logind answers."""
    listed = bus.ask([bus.Call(LOGIN, MANAGER, "org.freedesktop.login1.Manager", "ListSessions")])[0]
    if listed.error:
        raise ActionFailed(f"logind does not list the sessions: {listed.error} {listed.text}")
    paths = [str(row[4]) for row in listed.values[0]][:MAX_SESSIONS]
    answers = bus.ask([bus.get_all(LOGIN, path, SESSION) for path in paths]) if paths else []
    found = [
        _session(path, answer) for path, answer in zip(paths, answers, strict=True) if not answer.error
    ]  # one that ended meanwhile has an error
    return [one for one in found if one is not None]


def _session(path: str, answer: bus.Answer) -> Session | None:
    said = bus.plain(answer.values[0])
    if said.get("Class", "user") not in ("user", "user-early") or said.get("State") == "closing":
        return None
    return Session(
        id=str(said.get("Id", "")), path=path, uid=int(said["User"][0]), user=str(said.get("Name", "")),
        type=str(said.get("Type", "unspecified")), tty=str(said.get("TTY", "")),
        is_locked=bool(said.get("LockedHint", False)),
    )  # fmt: skip


def terminals(utmp: Path = UTMP) -> list[Session]:
    """Return who sits at a terminal by utmp, none where that is not kept."""
    try:
        with utmp.open("rb") as file:
            data = file.read(MAX_UTMP_BYTES)
    except OSError:
        return []
    found = []
    for at in range(0, len(data) - _UTMP_BYTES + 1, _UTMP_BYTES):
        kind, _pid, line, _id, user, _host = _UTMP.unpack_from(data, at)
        if kind == _USER_PROCESS:
            found.append(_by_utmp(_text(line), _text(user)))
    return found[:MAX_SESSIONS]


def _by_utmp(line: str, user: str) -> Session:
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        uid = 0
    return Session(id=line, path="", uid=uid, user=user, type="tty", tty=line, is_locked=False)


def say(tty: str, text: str, *, root: Path = Path("/dev")) -> bool:
    """Write `text` to the terminal `tty` without waiting for it, as wall(1) does; False when that does not go."""
    path = root / tty
    if not tty or ".." in Path(tty).parts or not path.is_relative_to(root):
        return False
    shown = "\r\n".join("".join(c if c.isprintable() else "?" for c in line) for line in text.split("\n"))
    try:
        if not stat.S_ISCHR(os.stat(path, follow_symlinks=False).st_mode):
            return False
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        data = f"\r\n\a{shown}\r\n".encode()
        return os.isatty(descriptor) and os.write(descriptor, data) == len(data)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "replace")
