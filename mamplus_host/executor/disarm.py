# SPDX-License-Identifier: Apache-2.0
"""Rules that disarmed themselves: one that suddenly acts on many different programs is wrong, not right so often.

Journey: execute -> [disarm] -> enterprise (an alert), administrator (`mamplus rules rearm`).

Asked before every action on a program. Beyond the policy's bound nothing is done for that rule any more, on
this device, until somebody arms it again here: `state/rules.json`. What it did before stays and can be undone.
A rule is an entry of the list, or one of the agent's own.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from mamplus_host.analyzer.decide import RULE_BLE
from mamplus_host.clock import Clock
from mamplus_host.errors import ActionFailed, MamplusError
from mamplus_host.events import Exec, FileAccess, Packet
from mamplus_host.executor.plan import Action
from mamplus_host.files import write_whole
from mamplus_host.ids import new_id
from mamplus_host.policy.actions import STOPPING, ActionRules
from mamplus_host.telling import Telling
from mamplus_host.verdicts import ActionKind, Decision, Severity

RULE_DISARMED = "rule-disarmed"
MAX_RULES = 1024  # whose programs are remembered; the one that acted longest ago goes first
_AIMED = frozenset({*STOPPING, ActionKind.QUARANTINE})
_NS = 1_000_000_000


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One that acts no more."""

    key: str  # entry:N, or the rule's name
    alert: str  # id of what the enterprise is told
    at: float  # seconds since the epoch, by the device's clock
    boot_ns: int
    programs: tuple[str, ...]  # the first that it acted on, for people
    generation: int
    is_told: bool = False


def rule_of(decision: Decision) -> str:
    """Return the name of what decided: an entry of the list, by its value where its number is not known, or a rule."""
    if decision.entry_id:
        return f"entry:{decision.entry_id}"
    named = decision.indicator
    return f"{named.kind}:{named.value}" if decision.rule == RULE_BLE and named is not None else decision.rule


class Disarmed:
    """One thread only."""

    def __init__(self, path: Path, *, clock: Clock, rules: Callable[[], ActionRules] = ActionRules) -> None:
        """Read `path`; one that cannot be read disarms nothing, and is kept beside as `.damaged`."""
        self._path, self._clock, self._rules = path, clock, rules
        self._seen: OrderedDict[str, OrderedDict[str, tuple[int, str]]] = OrderedDict()  # rule -> program -> seen
        self._off: dict[str, Rule] = {}
        try:
            kept = msgspec.convert(json.loads(path.read_bytes()), list[Rule])
            self._off = {rule.key: rule for rule in kept}
        except FileNotFoundError:
            pass
        except (msgspec.ValidationError, ValueError):
            path.replace(path.with_name(path.name + ".damaged"))

    def take(self, decision: Decision, action: Action) -> str:
        """Count an action that is about to be done; return why it must not be, "" when it may."""
        key = rule_of(decision)
        if action.kind not in _AIMED:
            return ""
        if key not in self._off:
            programs = self._count(key, *_program(decision))
            if len(programs) <= self._rules().disarm.programs:
                return ""
            self._disarm(key, [words for _ns, words in programs.values()], decision.generation)
        return f"rule {key!r} is disarmed (`mamplus rules rearm {key}` arms it again)"

    def all(self) -> list[Rule]:
        return list(self._off.values())

    def rearm(self, key: str) -> Rule:
        """Have a rule act again; ActionFailed when it is not disarmed."""
        if key not in self._off:
            known = ", ".join(self._off) or "none is"
            raise ActionFailed(f"rule {key!r} is not disarmed; disarmed: {known}")
        rule = self._off[key]
        self._write({name: one for name, one in self._off.items() if name != key})
        self._seen.pop(key, None)
        return rule

    def hand_on(self, tell: Callable[[Telling], Any]) -> None:
        """Tell what has not been told yet; `tell` must take the same one twice."""
        for rule in self.all():
            if not rule.is_told:
                tell(_telling(rule))
                self._write({**self._off, rule.key: msgspec.structs.replace(rule, is_told=True)})

    def _count(self, key: str, program: str, words: str) -> "OrderedDict[str, tuple[int, str]]":
        """Return the programs that the rule acted on of late, this one included: CLOCK_BOOTTIME and words of each."""
        now_ns = self._clock.boot_ns()
        seen = self._seen.setdefault(key, OrderedDict())
        self._seen.move_to_end(key)
        if len(self._seen) > MAX_RULES:
            self._seen.popitem(last=False)
        seen[program] = now_ns, words
        seen.move_to_end(program)
        while seen and now_ns - next(iter(seen.values()))[0] > self._rules().disarm.within_s * _NS:
            seen.popitem(last=False)
        return seen

    def _disarm(self, key: str, programs: list[str], generation: int) -> None:
        rule = Rule(key=key, alert=new_id(self._clock.wall_s()), at=self._clock.wall_s(),
                    boot_ns=self._clock.boot_ns(), programs=tuple(programs[:20]), generation=generation)  # fmt: skip
        self._off = {**self._off, key: rule}
        with suppress(MamplusError):  # a full disk: disarmed until the agent restarts; `hand_on` writes it again
            self._write(self._off)

    def _write(self, rules: dict[str, Rule]) -> None:
        write_whole(self._path, json.dumps(msgspec.to_builtins(list(rules.values()))).encode())
        self._off = rules


def _program(decision: Decision) -> tuple[str, str]:
    """Return what tells one program from another, and words for it.

    A process counts by its executable's inode, where it has ended by its cgroup: neither its children nor another
    name make it another program, or it would disarm the rule that is after it.
    """
    event = decision.event
    if isinstance(event, Exec | FileAccess):
        return (event.path or event.sha256,) * 2
    head = getattr(event, "head", None)
    if head is None or isinstance(event, Packet):  # a packet's task is no evidence
        return (f"cgroup {head.cgroup_id if head else 0}",) * 2
    try:
        link = f"/proc/{head.tgid}/exe"
        found = os.stat(link)
        return f"inode {found.st_dev}:{found.st_ino}", os.readlink(link)
    except OSError:
        return (f"cgroup {head.cgroup_id}",) * 2


def _telling(rule: Rule) -> Telling:
    summary = (
        f"rule {rule.key!r} acted on {len(rule.programs)} or more different programs at once and disarmed itself:"
        f" look at it, then say `mamplus rules rearm {rule.key}` on the device"
    )
    evidence = {
        "rule": rule.key,
        "programs": [one.encode("utf-8", "backslashreplace").decode() for one in rule.programs],
    }
    return Telling(
        id=rule.alert, at=rule.at, boot_ns=rule.boot_ns, rule=RULE_DISARMED, severity=Severity.HIGH, summary=summary,
        generation=rule.generation, evidence=evidence,
    )  # fmt: skip
