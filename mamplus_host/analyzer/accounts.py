# SPDX-License-Identifier: Apache-2.0
"""Which entries name an account: its number, its name, and those of its groups.

As the account database says (nsswitch.conf): a process that took another group by itself is not seen.
Answers are remembered until /etc/passwd or /etc/group changes, or REMEMBER_S have passed.
"""

import grp
import os
import pwd
import time
from collections.abc import Callable

from mamplus_host.ble.entry import Kind

REMEMBER_S = 300.0  # accounts of a directory service change without a file that tells
MAX_REMEMBERED = 4096
_LOOK_S = 2.0  # how often the files are looked at
_FILES = ("/etc/passwd", "/etc/group")


def spellings(kind: Kind, value: str) -> list[str]:
    """Return the canonical values that name the same user or group on this machine, `value` first."""
    return list(dict.fromkeys([value, *(_user(value) if kind is Kind.USER else _group(value))]))


def _user(value: str) -> list[str]:
    try:
        found = pwd.getpwuid(int(value[4:])) if value.startswith("uid:") else pwd.getpwnam(value)
    except KeyError:
        return []
    return [f"uid:{found.pw_uid}", found.pw_name]


def _group(value: str) -> list[str]:
    try:
        found = grp.getgrgid(int(value[4:])) if value.startswith("gid:") else grp.getgrnam(value)
    except KeyError:
        return []
    return [f"gid:{found.gr_gid}", found.gr_name]


def _groups_of(uid: int) -> list[str]:
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        return []
    numbers = os.getgrouplist(account.pw_name, account.pw_gid)
    return [name for number in numbers for name in spellings(Kind.GROUP, f"gid:{number}")]


Names = tuple[tuple[str, ...], tuple[str, ...]]  # of the user, of its groups


def names_of(uid: int) -> Names:
    """Return what an entry may call the user `uid`, and its groups."""
    return tuple(spellings(Kind.USER, f"uid:{uid}")), tuple(_groups_of(uid))


class Accounts:
    """Remembers `names_of`: a look-up in the account database may take milliseconds."""

    def __init__(
        self, look_up: Callable[[int], Names] = names_of, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._look_up, self._now = look_up, monotonic_s
        self._known: dict[int, Names] = {}
        self._looked_s = self._since_s = monotonic_s()
        self._marks = _marks()

    def names(self, uid: int) -> Names:
        """Return what an entry may call the user `uid`, and its groups."""
        self._forget_what_changed()
        if uid not in self._known:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[uid] = self._look_up(uid)
        return self._known[uid]

    def _forget_what_changed(self) -> None:
        now = self._now()
        if now - self._looked_s < _LOOK_S:
            return
        self._looked_s, marks = now, _marks()
        if marks != self._marks or now - self._since_s > REMEMBER_S:
            self._known.clear()
            self._marks, self._since_s = marks, now


def _marks() -> list[tuple[int, int, int]]:
    marks = []
    for path in _FILES:
        try:
            stat = os.stat(path)
        except OSError:
            continue
        marks.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return marks
