# SPDX-License-Identifier: Apache-2.0
"""From a decision to the actions that answer it: a value in, values out.

Journey: analyzer -> [plan] -> execute -> outbox.

Promises that no action ever aims at a guarded process, at pid 0 or at pid 1, and that
monitor mode plans the same actions, marked `dry_run`.

The mildest set that holds: what the kernel refused needs nothing more but telling. Of several ways to stop a
process (freeze, kill, its tree, its whole app) only the mildest that the policy names is planned; a harder one follows
when that fails. Everything else that the policy names is planned, mild to hard.

This module touches no process and no file, and asks no clock.
"""

import os
from typing import Any, Literal

import msgspec

from mamplus_host.config import Config
from mamplus_host.events import (
    Connect,
    DnsQuery,
    Event,
    Exec,
    Exit,
    FileAccess,
    FileChange,
    FileEvent,
    Fork,
    MassRewrite,
    Packet,
)
from mamplus_host.policy.actions import OF_FILES, STOPPING, TELLING, About, ActionRules
from mamplus_host.verdicts import ActionKind, Decision, Finding

NEVER = frozenset({0, 1})  # "nobody", and the process whose end is the device's end
_ORDER = tuple(ActionKind)
_BUILT_IN = ActionRules()


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do. Fields that a kind does not need are empty."""

    kind: ActionKind
    dry_run: bool = False  # monitor mode: journalled, not done
    boot_ns: int = 0  # of the event: the target process is older than this, or it is another one
    tgid: int = 0  # of whom the event is
    path: str = ""  # RESTORE
    ttl_s: int = 0  # then it is undone by itself; 0: never
    on_end: Literal["undo", "kill"] = "undo"
    otherwise: tuple[ActionKind, ...] = ()  # what is tried next, mild to hard, should this fail
    how: dict[str, Any] = {}  # what the policy says of it besides: joins the deed's target


def plan(
    decision: Decision, config: Config, guarded: frozenset[int] = frozenset(), rules: ActionRules = _BUILT_IN
) -> tuple[Action, ...]:
    """Return the actions that answer `decision`, in the order in which they are carried out.

    `guarded` holds the process ids that nothing may act on: the agent, its responder, and what
    the guard set names.
    """
    event, tgid = decision.event, _task(decision.event)
    may_stop = tgid not in guarded | NEVER
    kinds = _kinds(decision, config, rules)
    stopping = [kind for kind in STOPPING if kind in kinds and may_stop]
    wanted = [kind for kind in kinds if kind not in STOPPING] + stopping[:1]
    return tuple(
        _action(kind, event, tgid, config, rules, tuple(stopping[1:]) if kind in STOPPING else ())
        for kind in sorted(wanted, key=_ORDER.index)
    )


def boot_ns(event: Event) -> int:
    """Return when `event` happened, CLOCK_BOOTTIME in nanoseconds."""
    return event.boot_ns if isinstance(event, FileEvent) else event.head.boot_ns


def target_of(decision: Decision, action: Action) -> dict[str, Any]:
    """Return what a deed is told of its target (see `shape`): everything that the event says."""
    event = decision.event
    found: dict[str, Any] = {
        "alert": decision.id, "reason": decision.reason, "tgid": action.tgid, "boot_ns": action.boot_ns,
        "ttl_s": action.ttl_s, "rule": decision.rule, "severity": int(decision.severity),
        "indicator": msgspec.to_builtins(decision.indicator),
    }  # fmt: skip
    if not isinstance(event, FileEvent):
        found |= {"uid": event.head.uid, "comm": event.head.comm}
    if isinstance(event, Exec | FileAccess | FileChange):
        found["path"] = event.path
    if isinstance(event, MassRewrite):
        found["path"] = action.path
    if isinstance(event, Exec | FileAccess):
        found["sha256"] = event.sha256
    if isinstance(event, Connect):
        found |= {"address": str(event.address), "port": event.port, "protocol": event.protocol}
    if isinstance(event, Packet):
        found |= {"address": _peer(decision, event), "protocol": event.protocol}
    return found | action.how


def _peer(decision: Decision, event: Packet) -> str:
    named = decision.indicator
    return named.value if named is not None and named.kind == "ip" else str(event.destination)


def _action(
    kind: ActionKind, event: Event, tgid: int, config: Config, rules: ActionRules, harder: tuple[ActionKind, ...]
) -> Action:
    is_watched = config.agent.mode == "monitor"
    if isinstance(event, FileChange) and kind in OF_FILES:
        return Action(kind=kind, dry_run=is_watched, boot_ns=event.boot_ns, path=event.path)
    if isinstance(event, MassRewrite) and kind in OF_FILES:
        return Action(kind=kind, dry_run=is_watched, boot_ns=event.boot_ns, path=_above(event.paths))
    ends = kind is ActionKind.FREEZE and config.suspicion.on_deadline == "kill"
    return Action(
        kind=kind, dry_run=is_watched, boot_ns=boot_ns(event), tgid=tgid, on_end="kill" if ends else "undo",
        ttl_s=rules.time_limit_s(kind, config.suspicion), otherwise=harder, how=_how(kind, event, rules),
    )  # fmt: skip


def _how(kind: ActionKind, event: Event, rules: ActionRules) -> dict[str, Any]:
    """Return what the policy says of an action that acts on the device, and not on who the event is of."""
    if kind is ActionKind.RADIO:
        return {"radios": list(rules.radio.off), "last_road": rules.radio.last_road}
    if kind is ActionKind.USB:
        return {"new": True} if rules.usb == "new" else _medium(event)
    return _medium(event) | {"way": rules.mount} if kind is ActionKind.MOUNT else {}


def _medium(event: Event) -> dict[str, str]:
    """Return what names the file system that an event is about, in the words of mountinfo where the kernel told it.

    A path comes second: who is alerted about may have picked it, as a relative one, a link, or a name in a mount
    namespace of his own, and so pointed at another's medium.
    """
    if isinstance(event, Exec | FileAccess):
        return {"medium": f"{event.file.dev >> 20}:{event.file.dev & 0xFFFFF}"}
    if isinstance(event, MassRewrite):
        return {"file": event.paths[0]}
    return {"file": event.path if isinstance(event, FileChange) else ""}


def _above(paths: tuple[str, ...]) -> str:
    """Return the directory that all of them lie below, with the slash that means everything protected in it."""
    return os.path.commonpath([os.path.dirname(path) for path in paths]).rstrip("/") + "/"


def _kinds(decision: Decision, config: Config, rules: ActionRules) -> tuple[ActionKind, ...]:
    about = _about(decision.event)
    if decision.finding is Finding.NOTHING or about is None:
        return ()
    answers = rules.answers(decision.finding, about, config.suspicion)
    if decision.in_kernel:
        return (ActionKind.REFUSED, *(kind for kind in answers if kind in TELLING))
    return answers


def _about(event: Event) -> About | None:
    """Return what the policy calls the event; a library is code that a process has begun to run."""
    if isinstance(event, Fork | Exit):
        return None
    if isinstance(event, FileAccess):
        return "library" if event.op == "map-exec" else "access"
    if isinstance(event, Connect):
        return "sendmsg" if event.unconnected else "connect"
    names: dict[str, About] = {
        "Exec": "exec", "Packet": "packet", "DnsQuery": "dns", "FileChange": "file", "MassRewrite": "mass",
        "Tamper": "tamper",
    }  # fmt: skip
    return names[type(event).__name__]


def _task(event: Event) -> int:
    """Return the process to act on; 0 where the head's task is not evidence (softirq) or there is none."""
    if isinstance(event, MassRewrite):
        return event.tgid
    return 0 if isinstance(event, Packet | DnsQuery | FileChange) else event.head.tgid
