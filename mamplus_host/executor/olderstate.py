# SPDX-License-Identifier: Apache-2.0
"""Takes over what a release before the one shape of actions left: `state/held.json`, and intents without facts.

A device is upgraded while a suspect stands still: the new agent has to be able to let it go.
"""

import json
from pathlib import Path

import msgspec

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.inforce import InForce, InForceStore
from mamplus_host.executor.journal import Record
from mamplus_host.executor.processes.process import Hold
from mamplus_host.executor.runner import Work
from mamplus_host.verdicts import ActionKind, Indicator


class _Held(msgspec.Struct, frozen=True, kw_only=True):
    decision_id: str
    indicator: Indicator | None
    hold: Hold
    deadline_ns: int  # CLOCK_BOOTTIME


class _File(msgspec.Struct, frozen=True, kw_only=True):
    boot_id: str
    held: list[_Held]


def adopt_held(path: Path, store: InForceStore, boot_id: str) -> None:
    """Put what `path` says is held among what is in force, once; of an earlier boot nothing is held any more."""
    try:
        kept = msgspec.convert(json.loads(path.read_bytes()), _File)
    except (OSError, ValueError, msgspec.ValidationError):
        return
    if kept.boot_id == boot_id:
        store.put(_entry(held, store, boot_id) for held in kept.held)
    path.unlink()


def _entry(held: _Held, store: InForceStore, boot_id: str) -> InForce:
    facts = {"boot": boot_id, "hold": msgspec.to_builtins(held.hold)}
    entry = store.stamped(
        InForce(id=f"{held.decision_id}-{ActionKind.FREEZE}", decision_id=held.decision_id, kind=ActionKind.FREEZE,
                facts=facts, indicator=held.indicator, place=held.hold.cgroup)
    )  # fmt: skip
    left_s = max(1, (held.deadline_ns - entry.boot_ns) // 1_000_000_000)
    return msgspec.structs.replace(entry, ttl_s=left_s)


def finish_old(record: Record, store: InForceStore, work: Work) -> Work:
    """Return `work` as an intent of an older release has it; ActionFailed when it cannot be finished."""
    data = record.data
    entries = [entry for entry in store.of(record.id) if entry.kind is ActionKind.FREEZE]
    if data.get("undo") and work.kind is ActionKind.FREEZE and entries:
        return Work.of(entries[0])
    if data.get("undo") or data.get("held"):
        raise ActionFailed("an older release began to undo it, and nothing of it is in force")
    if work.kind is not ActionKind.RESTORE:
        raise ActionFailed("an older release began it, and was replaced before it was done")
    work.target = {"path": data["path"], "alert": record.id}
    return work
