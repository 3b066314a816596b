# SPDX-License-Identifier: Apache-2.0
"""From the paths of rules to files and directories as the kernel knows them.

A path is walked name by name where the agent stands, once: from then on its file is guarded as
(device, inode, generation). Directories and links on the way are marked too, so that nobody
puts another file under the guarded path; and the name in its directory, so that a file that a
writer replaces or that is not there yet is guarded without a gap.
"""

import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mamplus_host.kernel import layout
from mamplus_host.mountinfo import mounted

MAX_LINKS = 40  # symbolic links on the way to one path, as in the kernel
MAX_ENTRIES = 200_000  # looked at below one tree for names that are linked elsewhere too
_FNV_START, _FNV_PRIME, _WORD = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1
_SPREAD = 0x9E3779B97F4A7C15
_DEVICE_BITS = 6


class Identity(NamedTuple):
    """A file as the kernel's hooks see it."""

    dev: int
    ino: int
    generation: int  # 0: not known, then any


class Mark:
    """Rules of one inode; the words of struct mamplus_guarded."""

    __slots__ = ("generation", "named", "own", "tree", "way")

    def __init__(self, generation: int) -> None:
        self.own = self.tree = self.way = self.named = 0
        self.generation = generation

    def packed(self) -> bytes:
        return layout.GUARDED.pack(self.own, self.tree, self.way, self.generation, self.named)


class Marks:
    """What is to be in the maps: inodes and guarded names; and which paths could not be had."""

    def __init__(self) -> None:
        self.inodes: dict[tuple[int, int], Mark] = {}
        self.names: dict[tuple[int, int, int], int] = {}
        self.absent: dict[str, str] = {}  # path -> why: guarded by the name of its first missing part only
        self.unresolved: dict[str, str] = {}  # path -> why it is not guarded, or not wholly

    def at(self, who: Identity) -> Mark:
        mark = self.inodes.get((who.dev, who.ino))
        if mark is None:
            mark = self.inodes[who.dev, who.ino] = Mark(who.generation)
        return mark

    def guard_name(self, directory: Identity, name: str, rules: int) -> None:
        self.at(directory).named = 1
        key = (directory.dev, directory.ino, hash_of(os.fsencode(name)))
        self.names[key] = self.names.get(key, 0) | rules


def hash_of(name: bytes) -> int:
    """Return FNV-1a of a name, as files_logic.h computes it."""
    value = _FNV_START
    for byte in name:
        value = (value ^ byte) * _FNV_PRIME & _WORD
    return value


def device_bit(dev: int) -> int:
    return (dev * _SPREAD & _WORD) >> (64 - _DEVICE_BITS)


def filter_bit(dev: int, ino: int) -> int:
    return ((ino + (dev << 32)) * _SPREAD & _WORD) >> (64 - layout.FILTER_SHIFT)


Identify = Callable[[str, os.stat_result, int], Identity]  # path, what lstat says, device of its directory


class Resolver:
    """Fills `marks`. `identify` says how the kernel names what lies at a path; it never follows a link."""

    def __init__(self, identify: Identify) -> None:
        self.marks = Marks()
        self._identify = identify

    def add(self, path: str, rules: int) -> None:
        """Guard `path` under the bits `rules`; what cannot be looked at is named in `marks.unresolved`."""
        try:
            self._walk(path, rules)
        except OSError as error:
            self.marks.unresolved[path] = error.strerror or str(error)

    def _walk(self, path: str, rules: int) -> None:
        rest = [part for part in path.split("/") if part][::-1]
        at, links = "/", 0
        directory = self._root(at)
        self.marks.at(directory).way |= rules
        while rest:
            name = rest.pop()
            if name == "..":
                at = os.path.dirname(at)
                directory = self._root(at)
                continue
            child = os.path.join(at, name)
            try:
                about = os.lstat(child)
            except FileNotFoundError:
                self.marks.guard_name(directory, name, rules)
                self.marks.absent[path] = f"{child!r} is not there; the name is guarded"
                return
            who = self._identify(child, about, directory.dev)
            if stat.S_ISLNK(about.st_mode):
                links += 1
                if links > MAX_LINKS:
                    raise OSError(40, f"more than {MAX_LINKS} links on the way to {path!r}")
                self.marks.at(who).way |= rules
                target = os.readlink(child)
                rest += [part for part in target.split("/") if part and part != "."][::-1]
                if target.startswith("/"):
                    at = "/"
                    directory = self._root(at)
                continue
            if not rest:
                self.marks.guard_name(directory, name, rules)
                self._guard(child, who, about, rules, path)
                return
            self.marks.at(who).way |= rules
            at, directory = child, who
        self.marks.unresolved[path] = "it leads to the root directory"

    def _root(self, path: str) -> Identity:
        return self._identify(path, os.lstat(path), 0)

    def _guard(self, path: str, who: Identity, about: os.stat_result, rules: int, rule_path: str) -> None:
        mark = self.marks.at(who)
        if not stat.S_ISDIR(about.st_mode):
            mark.own |= rules
            return
        mark.tree |= rules
        for root in mounts_below(path):
            self.marks.at(self._root(root)).tree |= rules
        for number, (linked, facts) in enumerate(_files_below(path)):
            if number >= MAX_ENTRIES:
                self.marks.unresolved[rule_path] = (
                    f"more than {MAX_ENTRIES} files: links from elsewhere were not looked for"
                )
                return
            if facts.st_nlink > 1 and stat.S_ISREG(facts.st_mode):
                self.marks.at(self._identify(linked, facts, who.dev)).own |= rules


def _files_below(path: str) -> Iterator[tuple[str, os.stat_result]]:
    for directory, below, names in os.walk(path):
        below.sort()
        for name in names:
            child = os.path.join(directory, name)
            try:
                yield child, os.lstat(child)
            except FileNotFoundError:
                continue  # gone meanwhile


def mounts_below(path: str) -> list[str]:
    """Return the mount points below the directory `path`: its tree goes on there in another file system."""
    return [one.point for one in mounted() if one.point.startswith(path.rstrip("/") + "/")]
