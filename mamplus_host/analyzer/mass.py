# SPDX-License-Identifier: Apache-2.0
"""Many different protected files rewritten, renamed or removed by one family of processes within a short time.

Journey: files -> [mass] -> protecting, which stops the family before anything else.

A program that encrypts does it itself, or starts another for each file (`openssl`, `gpg`, `rm`): so every process
counts for its ancestors, too, and the nearest one that has rewritten enough is the head of the family. Pure: what
is an ancestor, and whether a file really differs, is asked of the caller.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial

import msgspec

REWRITING = frozenset({"modify", "close-write", "moved-away", "moved-over", "delete"})
MAX_HEADS = 1024  # processes that are counted; the one that rewrote longest ago goes first
_MAX_PATHS = 4096  # of one process


class Suspect(msgspec.Struct, frozen=True):
    """The head of a family that rewrites protected files."""

    tgid: int  # 0: the kernel did not say who
    paths: tuple[str, ...]  # rewritten within the time, oldest first


class MassRewrites:
    """Who rewrote what of late."""

    def __init__(self, *, files: int, window_ns: int) -> None:
        """`files` different ones by one family within `window_ns` are one too many."""
        self._files, self._window_ns = files, window_ns
        self._by_head: OrderedDict[int, dict[str, int]] = OrderedDict()
        self._unasked: dict[int, list[str]] = {}  # what was noted of a writer and not yet of its ancestors

    def note(
        self, touches: Iterable[tuple[str, str, int]], now_ns: int, differs: Callable[[str], bool]
    ) -> Suspect | None:
        """Take in touches (path, change, tgid) and return a process that has rewritten too many by itself.

        `differs` says whether a file is not as it should be: asked now, for it may be put back before the next one.
        """
        writers: dict[int, dict[str, None]] = {}
        for path, change, tgid in touches:
            if change in REWRITING:
                writers.setdefault(tgid, {})[path] = None
        for tgid, paths in writers.items():
            rewritten = [path for path in paths if differs(path)]
            if rewritten:
                self._add(tgid, rewritten, now_ns)
                self._unasked.setdefault(tgid, []).extend(rewritten)
                if found := self._judged(tgid, now_ns):
                    return found
        return None

    def families(self, now_ns: int, ancestors: Callable[[int], list[int]]) -> Suspect | None:
        """Count what was noted for the ancestors of its writers, and return the nearest one with too many.

        For when nothing more is to be read: to find the ancestors takes longer than a program needs for many files,
        and one that starts another for each file needs longer than that.
        """
        unasked, self._unasked = self._unasked, {}
        chains = [ancestors(tgid) if tgid else [] for tgid in unasked]
        for chain, paths in zip(chains, unasked.values(), strict=True):
            for head in chain:
                self._add(head, paths, now_ns)
        found = [one for one in map(partial(self._judged, now_ns=now_ns), _heads(chains)) if one is not None]
        return next((one for one in found if not _is_above(one.tgid, {other.tgid for other in found}, chains)), None)

    def forget(self, tgid: int) -> None:
        """Begin anew with a process: it was judged."""
        self._by_head.pop(tgid, None)
        self._unasked.pop(tgid, None)

    def _add(self, head: int, paths: list[str], now_ns: int) -> None:
        known = self._by_head.setdefault(head, {})
        self._by_head.move_to_end(head)
        for path in paths:
            known.pop(path, None)
            known[path] = now_ns
        while len(known) > _MAX_PATHS:
            del known[next(iter(known))]
        if len(self._by_head) > MAX_HEADS:
            self._by_head.popitem(last=False)

    def _judged(self, head: int, now_ns: int) -> Suspect | None:
        known = self._by_head.get(head, {})
        if len(known) < self._files:
            return None
        for path, at_ns in list(known.items()):
            if now_ns - at_ns > self._window_ns:
                del known[path]
        return Suspect(head, tuple(known)) if len(known) >= self._files else None


def _heads(chains: list[list[int]]) -> dict[int, None]:
    """Return all that is in `chains`, once."""
    return dict.fromkeys(head for chain in chains for head in chain)


def _is_above(tgid: int, others: set[int], chains: list[list[int]]) -> bool:
    """Say whether a process is an ancestor of one of `others`: then that one is nearer to what was done."""
    return any(tgid in chain and not others.isdisjoint(chain[: chain.index(tgid)]) for chain in chains)
