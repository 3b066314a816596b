# SPDX-License-Identifier: Apache-2.0
"""From a decision to the actions that answer it: a value in, values out.

Journey: analyzer -> [plan] -> execute -> outbox.

Promises that no action ever aims at a guarded process, at pid 0 or at pid 1, and that
monitor mode plans the same actions, marked `dry_run`.

This module touches no process and no file, and asks no clock.
"""

import msgspec

from mamplus_host.config import Config
from mamplus_host.events import DnsQuery, Event, Exec, FileAccess, FileChange, Packet
from mamplus_host.verdicts import ActionKind, Decision, Finding

NEVER = frozenset({0, 1})  # "nobody", and the process whose end is the device's end


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do. Fields that a kind does not need are empty."""

    kind: ActionKind
    dry_run: bool = False  # monitor mode: journalled, not done
    boot_ns: int = 0  # of the event: the target process is older than this, or it is another one
    tgid: int = 0  # FREEZE, KILL
    path: str = ""  # RESTORE


def plan(decision: Decision, config: Config, guarded: frozenset[int] = frozenset()) -> tuple[Action, ...]:
    """Return the actions that answer `decision`, in the order in which they are carried out.

    `guarded` holds the process ids that nothing may act on: the agent, its responder, and what
    the guard set names.
    """
    dry_run = config.agent.mode == "monitor"
    kind = _kind(decision, config)
    if kind is None:
        return ()
    if kind is ActionKind.RESTORE:
        assert isinstance(decision.event, FileChange)
        return (Action(kind=kind, dry_run=dry_run, boot_ns=decision.event.boot_ns, path=decision.event.path),)
    tgid = _task(decision.event)
    if kind is not ActionKind.REFUSED and tgid in guarded | NEVER:
        return ()
    return (Action(kind=kind, dry_run=dry_run, boot_ns=boot_ns(decision.event), tgid=tgid),)


def boot_ns(event: Event) -> int:
    """Return when `event` happened, CLOCK_BOOTTIME in nanoseconds."""
    return event.boot_ns if isinstance(event, FileChange) else event.head.boot_ns


def _kind(decision: Decision, config: Config) -> ActionKind | None:
    if decision.finding is Finding.NOTHING:
        return None
    if isinstance(decision.event, FileChange):
        return ActionKind.RESTORE
    if decision.in_kernel:
        return ActionKind.REFUSED
    if decision.finding is Finding.CONFIRMED:
        return ActionKind.KILL if _runs(decision.event) else None
    holds = _runs(decision.event) and config.suspicion.hold == "freeze"
    return ActionKind.FREEZE if holds else None


def _runs(event: Event) -> bool:
    """Say whether what the event is about is code that its process has begun to run."""
    return isinstance(event, Exec) or (isinstance(event, FileAccess) and event.op == "map-exec")


def _task(event: Event) -> int:
    """Return the process to act on; 0 where the head's task is not evidence (softirq) or there is none."""
    return 0 if isinstance(event, Packet | DnsQuery | FileChange) else event.head.tgid
