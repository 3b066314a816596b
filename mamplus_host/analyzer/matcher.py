# SPDX-License-Identifier: Apache-2.0
"""What the kernel does not ask about yet: the path of a program that starts, and whose program it is.

Journey: collector -> [analyzer] -> executor.

Compiled from one list: the hashes of all paths in one set, patterns in one tree. A start that no
entry is about costs a set and a tree look-up; a list without such kinds costs nothing. A program that
an entry blocks is ended right after its start, by the executor: it may have run for a moment.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from mamplus_host.analyzer.accounts import Accounts
from mamplus_host.analyzer.verify import Answer, List, verify
from mamplus_host.ble import native
from mamplus_host.ble.entry import Kind
from mamplus_host.ble.format import Generation, Section
from mamplus_host.ble.globs import Globs
from mamplus_host.ble.hashes import text_hash
from mamplus_host.ble.paths import seen_bytes, spelled_path
from mamplus_host.ble.stack import Stack

IN_USER_SPACE = frozenset({"path", "user", "group"})  # kinds that are enforced by this module and the executor


def in_user_space(by_kind: dict[str, int]) -> int:
    """Return how many of the entries without a kernel table are enforced here."""
    return sum(count for kind, count in by_kind.items() if kind in IN_USER_SPACE)


def places(by_kind: dict[str, int], because: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Say for `status` who enforces kinds without a kernel table, and why (`because`) others are not enforced."""
    mine = {kind: count for kind, count in by_kind.items() if kind in IN_USER_SPACE}
    nobodys = {kind: count for kind, count in by_kind.items() if kind not in IN_USER_SPACE}
    others = {reason: count for reason, count in because.items() if reason != "kind"}
    said = {"in_user_space_by_kind": mine, "not_enforced_by_kind": nobodys, "not_enforced_because": others}
    return {name: counts for name, counts in said.items() if counts}


class Matcher:
    """Asks one list about starts of programs. `of` returns None when it has nothing to ask."""

    def __init__(self, ble: Stack, accounts: Accounts) -> None:
        self._ble, self._accounts = ble, accounts
        self._hashes = frozenset(chain.from_iterable(_hashes(part) for part in ble.parts()))
        self.globs = Globs(ble.parts())
        self.wants_paths = bool(self._hashes)
        self._wants_accounts = _has(ble, Section.USER, Section.GROUP)

    @classmethod
    def of(cls, ble: List | None, accounts: Accounts) -> "Matcher | None":
        """Return the matcher of `ble`; None when it names no path, user or group."""
        stack = Stack.of(ble) if isinstance(ble, Generation) else ble
        if stack is None or not _has(stack, Section.PATH, Section.USER, Section.GROUP):
            return None
        return cls(stack, accounts)

    def about(self, path: str, uid: int, now_s: float) -> Answer | None:
        """Return the greatest verdict on a start of `path` by `uid`; None when no entry is about it.

        `path`: as the kernel has it, undecodable bytes as surrogates; "" when it is not known. What
        uid 0 and its groups do is never refused for being theirs: the device would be lost.
        """
        answers = [answer for answer in self._answers(path, uid, now_s) if answer.entry is not None]
        return max(answers, key=lambda answer: answer.verdict, default=None)

    def _answers(self, path: str, uid: int, now_s: float) -> Iterator[Answer]:
        if path and self.wants_paths:
            yield from self._about_path(path, now_s)
        if self._wants_accounts and uid:
            user, groups = self._accounts.names(uid)
            yield from (verify(self._ble, Kind.USER, name, now_s=now_s) for name in user)
            yield from (verify(self._ble, Kind.GROUP, name, now_s=now_s) for name in groups)

    def _about_path(self, path: str, now_s: float) -> Iterator[Answer]:
        value = spelled_path(path)
        covered = self.globs.count and self.globs.covering(seen_bytes(path))
        if covered or text_hash(value) in self._hashes:
            yield verify(self._ble, Kind.PATH, value, now_s=now_s, globs=self.globs)


def _has(ble: Stack, *sections: Section) -> bool:
    return any(part.slots(section) for part in ble.parts() for section in sections)


def _hashes(part: Generation) -> list[int]:
    """The keys of all paths of a file; those of patterns are among them, and do no harm."""
    view = part.sections.get(Section.PATH)
    if view is None:
        return []
    keys = part.buffer[view.keys : view.keys + view.count * view.key_size]
    native.require_whole(part.buffer)
    return memoryview(keys).cast("Q").tolist()
