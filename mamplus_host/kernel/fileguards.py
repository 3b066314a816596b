# SPDX-License-Identifier: Apache-2.0
"""Puts the policy's rules about files into the maps that lsm_files.bpf.c reads.

A change is made without a gap: marks, filters and programs of the new rules are added to those
of the old ones, then the rules are swapped, then what only the old ones had is removed. A rule
keeps its bit as long as its path is named. Nothing here decides; see files_logic.h.
"""

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from mamplus_host.config import Config
from mamplus_host.errors import MamplusError
from mamplus_host.events import OPERATIONS as EVENT_OPERATIONS
from mamplus_host.events import File
from mamplus_host.files import write_whole
from mamplus_host.kernel import layout, pins
from mamplus_host.kernel.bpf import Map
from mamplus_host.kernel.filemarks import Identify, Identity, Marks, Resolver, device_bit, filter_bit
from mamplus_host.kernel.filepage import RulesPage, admit
from mamplus_host.kernel.fileprograms import Programs
from mamplus_host.kernel.tables import file_of
from mamplus_host.policy.files import FileRules, Guarded, Program, is_below, is_of_the_system

OWN = "own state"
_NUMBERS = "file_rules.json"
_FOLDER_OPERATIONS = ("read", "rename", "link")
_ASKING = 1 << 63  # of `on`: nothing may be guarded yet, and still the hook is to answer us; rule 63 is never given
_LAST_RULE = layout.RULES_MAX - 2
_TICKS_PER_LOOK = 12  # a minute: programs are told to the kernel again


class Rule(NamedTuple):
    """One rule, whatever field of the policy it comes from."""

    key: str  # what keeps its number
    path: str
    operations: tuple[str, ...]
    programs: tuple[Program, ...]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What `mamplus status` shows of guarded paths."""

    tier: str  # lsm, or why not
    guarded: int = 0  # rules
    folders: int = 0
    marks: int = 0  # inodes
    programs: int = 0  # hashes that may break a rule
    absent: dict[str, str] = {}
    unresolved: dict[str, str] = {}


def rules_of(policy: FileRules, own_state: Path) -> list[Rule]:
    """Return every rule, the agent's own first."""
    own = Guarded(path=os.path.realpath(own_state))
    found = [Rule(OWN, own.path, own.operations, ())]
    found += [Rule(f"guarded {one.path}", one.path, one.operations, one.writers) for one in policy.guarded]
    found += [Rule(f"readable {one.path}", one.path, _FOLDER_OPERATIONS, one.readers) for one in policy.readable]
    return found


def numbered(rules: Iterable[Rule], before: dict[str, int]) -> dict[str, int]:
    """Return key -> number: as before where it had one, else the first that neither set uses. 0 is OWN's."""
    keys = [rule.key for rule in rules]
    numbers = {key: before[key] for key in keys if key in before}
    numbers[OWN] = 0
    taken = set(before.values()) | set(numbers.values())
    free = [number for number in range(1, _LAST_RULE + 1) if number not in taken]
    free += [number for number in range(1, _LAST_RULE + 1) if number not in numbers.values() and number not in free]
    for key in keys:
        if key not in numbers:
            numbers[key] = free.pop(0)
    return numbers


class FileGuards:
    """The rules about files of one agent."""

    def __init__(self, config: Config, directory: Path, remember: Callable[[File, str], None]) -> None:
        self._config, self._directory = config, directory
        self.programs = Programs(remember)
        self._numbers: dict[str, int] = {}
        self._rules: list[Rule] = []
        self._policy: FileRules | None = None
        self._marks = Marks()
        self._writers: dict[str, list[int]] = {}
        self._seen: dict[Rule, tuple[int, int] | None] = {}  # where each path led when it was marked
        self._ticks = 0
        self.why_not = why_not(directory)
        self._page = None if self.why_not else RulesPage(directory)
        if self._page is not None:
            admit(config)

    @property
    def is_enforced(self) -> bool:
        """Say whether the kernel refuses; else the tiers below are all there is."""
        return self._page is not None

    def apply(self, policy: FileRules) -> None:
        """Have the kernel follow `policy`; what could not be found is in `state`."""
        self._policy = policy
        self._rules = rules_of(policy, self._config.state)
        self._numbers = numbered(self._rules, self._numbers or _kept_numbers(self._config))
        self._writers = self._programs_of(self._rules)
        if self._page is None:
            return
        _keep_numbers(self._config, self._numbers)
        self._marks = self._resolve(self._page)
        self._fill(self._page)

    def tick(self) -> None:
        """Look again: a path may have come or been replaced by its writer, a program upgraded."""
        if self._policy is None:
            return
        self._ticks += 1
        if self._ticks % _TICKS_PER_LOOK == 0:
            self.programs.remember_again()
        if self.programs.have_changed() or self._has_moved():
            self.apply(self._policy)

    def may(self, path: str, lineage: list[str]) -> bool:
        """Say whether a program, by its hash and its ancestors', may change `path`: for tiers that only notice."""
        wanted = [rule for rule in self._rules if rule.key.startswith("guarded ") and _covers(rule.path, path)]
        return bool(wanted) and all(any(self._is(program, lineage) for program in rule.programs) for rule in wanted)

    def _is(self, program: Program, lineage: list[str]) -> bool:
        hashes = self.programs.hashes(program)
        return any(one in hashes for one in (lineage if program.children else lineage[:1]))

    def watched(self) -> tuple[list[tuple[int, str]], list[tuple[int, str]], dict[str, list[int]]]:
        """Return guarded paths and data folders as (bit, path), and programs: what opens can be refused by."""
        there = [(rule, os.path.realpath(rule.path)) for rule in self._rules if rule.key != OWN]
        there = [(rule, path) for rule, path in there if os.path.exists(path) and not is_of_the_system(path)]
        bits = [(rule, 1 << self._numbers[rule.key], path) for rule, path in there]
        guarded = [(bit, path) for rule, bit, path in bits if "write" in rule.operations]
        folders = [(bit, path) for rule, bit, path in bits if "read" in rule.operations]
        return guarded, folders, self._writers

    def guarded_paths(self) -> list[str]:
        """Return the paths that the policy guards against changes."""
        return [rule.path for rule in self._rules if rule.key.startswith("guarded ")]

    def state(self) -> State:
        policy = self._policy or FileRules()
        return State(
            tier=self.why_not or "lsm", guarded=len(policy.guarded), folders=len(policy.readable),
            marks=len(self._marks.inodes), programs=len(self._writers), absent=self._marks.absent,
            unresolved={**self._marks.unresolved, **self.programs.unresolved},
        )  # fmt: skip

    def leave(self) -> None:
        """The agent ends: the guard of its own state rests, those of the policy stand."""
        if self._page is not None:
            if self._page.get("agent_tgid") == os.getpid():
                self._page.set("agent_tgid", 0)
            self._page.close()
            self._page = None

    # --- inside ------------------------------------------------------------------------------

    def _programs_of(self, rules: list[Rule]) -> dict[str, list[int]]:
        """Return hash -> [rules it may break, rules what it starts may break]."""
        found: dict[str, list[int]] = {}
        self.programs.forget_unnamed(program for rule in rules for program in rule.programs)
        for rule in rules:
            bit = 1 << self._numbers[rule.key]
            for program in rule.programs:
                for digest in self.programs.hashes(program):
                    words = found.setdefault(digest, [0, 0])
                    words[0] |= bit
                    words[1] |= bit if program.children else 0
        return found

    def _resolve(self, page: RulesPage) -> Marks:
        with _asking(page) as identify:
            resolver = Resolver(identify)
            for rule in self._rules:
                resolver.add(rule.path, 1 << self._numbers[rule.key])
        return resolver.marks

    def _has_moved(self) -> bool:
        """Say whether a guarded path leads to another file than the one that is marked."""
        if self._page is None:
            return False
        return any(_now_at(rule.path) != seen for rule, seen in self._seen.items())

    def _fill(self, page: RulesPage) -> None:
        """Old and new together, then the rules, then the new alone."""
        marks, numbers = self._marks, self._numbers
        self._seen = {rule: _now_at(rule.path) for rule in self._rules}
        refuses, trees, devices, filters = _words(self._rules, numbers, marks)
        page.set("mount_ns", os.stat("/proc/1/ns/mnt").st_ino)  # the host's: the unit gives the agent one of its own
        page.set("own", 1)
        _or_into(page, "filter", filters)
        page.set("devices", page.get("devices") | devices)
        stale = self._fill_maps(marks)
        page.set("trees", page.get("trees") | trees)
        _or_into(page, "refuses", refuses)
        page.set("on", page.get("on") | sum(1 << number for number in numbers.values()))
        for target, keys in stale:
            if keys:
                target.remove_many(keys)
        page.set_words("refuses", refuses)
        page.set("trees", trees)
        page.set("on", sum(1 << number for number in numbers.values()))
        page.set_words("filter", filters)
        page.set("devices", devices)

    def _fill_maps(self, marks: Marks) -> list[tuple[Map, list[bytes]]]:
        """Set what is new in each map; return what is to be removed once the rules are swapped."""
        stale = []
        for name, key_size, value_size, wanted in (
            ("guards", layout.FILE_KEY.size, layout.GUARDED.size,
             {layout.FILE_KEY.pack(*key): mark.packed() for key, mark in marks.inodes.items()}),
            ("guard_names", layout.GUARD_NAME.size, 8,
             {layout.GUARD_NAME.pack(*key): rules.to_bytes(8, "little") for key, rules in marks.names.items()}),
            ("guard_writers", layout.SHA256_LEN, layout.WRITER.size,
             {bytes.fromhex(digest): layout.WRITER.pack(*words) for digest, words in self._writers.items()}),
        ):  # fmt: skip
            target = Map.pinned(self._directory / name, key_size, value_size)
            for key, value in wanted.items():
                target.set(key, value)
            stale.append((target, [key for key in list(target.keys()) if key not in wanted]))
        return stale


def why_not(directory: Path) -> str:
    """Return why the kernel does not refuse here, "" when it does."""
    if not (directory / "file_rules").exists():
        return "no LSM hooks: this kernel did not take lsm_files; `mamplus doctor` says why"
    if not pins.link_pin(directory, "mamplus_file_open").exists():
        return "no LSM hooks: they are loaded and not attached"
    return ""


def _words(rules: list[Rule], numbers: dict[str, int], marks: Marks) -> tuple[list[int], int, int, list[int]]:
    """Return the words `refuses`, `trees`, `devices` and `filter` of the rules page."""
    refuses, filters = [0] * layout.OPS_MAX, [0] * layout.FILTER_WORDS
    for rule in rules:
        for operation in rule.operations:
            refuses[EVENT_OPERATIONS.index(operation) + 1] |= 1 << numbers[rule.key]
    devices = trees = 0
    for (dev, ino), mark in marks.inodes.items():
        devices |= 1 << device_bit(dev)
        trees |= mark.tree
        bit = filter_bit(dev, ino)
        filters[bit // 64] |= 1 << bit % 64
    return refuses, trees, devices, filters


def _or_into(page: RulesPage, name: str, values: list[int]) -> None:
    page.set_words(name, [old | new for old, new in zip(page.words(name), values, strict=True)])


def _covers(rule_path: str, path: str) -> bool:
    return is_below(path, rule_path) or is_below(path, os.path.realpath(rule_path))


def _now_at(path: str) -> tuple[int, int] | None:
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_dev, about.st_ino


@contextlib.contextmanager
def _asking(page: RulesPage) -> Iterator[Identify]:
    """Have file_open tell this thread how the kernel names what it opens."""
    page.set("asker", threading.get_native_id())
    page.set("on", page.get("on") | _ASKING)

    def identify(path: str, about: os.stat_result, directory_dev: int) -> Identity:
        if not (stat.S_ISDIR(about.st_mode) or stat.S_ISREG(about.st_mode)):
            return Identity(directory_dev, about.st_ino, 0)
        page.set("seen_ino", 0)
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if page.get("seen_ino"):
                return Identity(page.get("seen_dev"), page.get("seen_ino"), page.get("seen_generation"))
            file = file_of(fd)
            return Identity(file.dev, file.ino, 0)
        finally:
            os.close(fd)

    try:
        yield identify
    finally:
        page.set("on", page.get("on") & ~_ASKING)
        page.set("asker", 0)


def _kept_numbers(config: Config) -> dict[str, int]:
    """Return the numbers that the agent before gave; without them the rules are swapped, not changed in place."""
    try:
        return msgspec.json.decode((config.run / _NUMBERS).read_bytes(), type=dict[str, int])
    except (OSError, msgspec.MsgspecError):
        return {}


def _keep_numbers(config: Config, numbers: dict[str, int]) -> None:
    with contextlib.suppress(OSError, MamplusError):
        write_whole(config.run / _NUMBERS, msgspec.json.encode(numbers))
