# SPDX-License-Identifier: Apache-2.0
"""What is known of actions: in force by `actions.json`, done by the journal, and seen on the device.

Journey: control socket, execute -> [known] -> inforce, journal, runner.
"""

from typing import Any

import msgspec

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.actions.freeze import hold_of
from mamplus_host.executor.actions.kill import NO_INVERSE
from mamplus_host.executor.actions.refuse import refusal_of
from mamplus_host.executor.inforce import InForce, InForceStore
from mamplus_host.executor.journal import Journal, Record
from mamplus_host.executor.network.refusals import words
from mamplus_host.executor.runner import FAILURES, Runner, Work
from mamplus_host.executor.shape import Facts
from mamplus_host.policy.actions import KILLS
from mamplus_host.verdicts import ActionKind


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What `mamplus actions verify` says of one action."""

    id: str
    action: ActionKind
    wanted: str  # by the journal: done, undone
    seen: str  # on the device: done, undone, between; or why nothing can be told

    @property
    def is_right(self) -> bool:
        return self.wanted == self.seen


class Known:
    """Asked by people, and by who undoes. One thread only."""

    def __init__(self, store: InForceStore, journal: Journal, runner: Runner) -> None:
        self._store, self._journal, self._runner = store, journal, runner

    def in_force(self) -> list[dict[str, Any]]:
        """Return what `mamplus actions` shows, oldest first."""
        return [
            {
                "id": entry.id, "alert": entry.decision_id, "action": entry.kind.value, "since": entry.since_s,
                "left_s": self._store.left_s(entry), "on_end": entry.on_end if entry.ttl_s else "", "on": _on(entry),
            }
            for entry in self._store.all()
        ]  # fmt: skip

    def verify(self, name: str) -> list[Seen]:
        """Look at the device for every action about a decision, or for one action, by its id; ActionFailed for none."""
        decision_id, _, kind = name.partition("-")
        found = {entry.id: (entry.kind, entry.facts, "done") for entry in self._store.of(decision_id)}
        records = self._journal.of(decision_id)
        for record in records:
            if record.kind == "outcome" and record.data.get("state") in ("done", "undone") and record.data.get("id"):
                action = ActionKind(record.data["action"])
                facts = _facts_of(records, action)
                if record.data["id"] not in {entry.id for entry in self._store.of(decision_id)} and facts is not None:
                    found[record.data["id"]] = (action, facts, record.data["state"])
        wanted = [(key, one) for key, one in found.items() if kind in ("", one[0])]
        if not wanted:
            raise ActionFailed(f"no action of {name!r} can be looked at; `mamplus actions` lists ids")
        return [self._seen(key, *one) for key, one in wanted]

    def _seen(self, action_id: str, kind: ActionKind, facts: Facts, wanted: str) -> Seen:
        try:
            state = self._runner.verify(kind, facts).value
        except FAILURES as error:
            state = str(error)
        return Seen(id=action_id, action=kind, wanted=wanted, seen=state)

    def undoable(self, decision_id: str, kind: str, in_force: set[ActionKind]) -> tuple[list[Work], list[str]]:
        """Return what the journal alone knows and can be undone, and why the rest cannot; ActionFailed for nothing."""
        records = self._journal.of(decision_id)
        done = [record for record in records if record.kind == "outcome" and record.data.get("state") == "done"]
        if not in_force and not any(record.kind == "outcome" for record in records):
            raise ActionFailed(f"nothing is known to have been done about {decision_id!r}; `mamplus alerts` lists ids")
        undone = {record.data["action"] for record in records if record.data.get("state") == "undone"}
        works, why = list[Work](), list[str]()
        for record in reversed(done):
            action = ActionKind(record.data["action"])
            if action in in_force or kind not in ("", action) or any(work.kind == action for work in works):
                continue
            facts = _facts_of(records, action) if self._runner.is_passing(action) else None
            reason = "it was undone before" if action.value in undone else self._no_inverse(action, facts)
            if reason or facts is None:
                why.append(f"{action.value}: {reason}")
            else:
                works.append(Work(id=f"{decision_id}-{action}", decision_id=decision_id, kind=action, facts=facts))
        return works, why

    def _no_inverse(self, action: ActionKind, facts: Facts | None) -> str:
        """Return why an action that was done and is not in force cannot be undone; "" when it can."""
        if action is ActionKind.REFUSED:
            return "the kernel refused it before it happened; an allow entry on the list lets it pass next time"
        if not self._runner.has_inverse(action):
            return NO_INVERSE if action in KILLS else "it has no inverse"
        return "it is no longer in force" if facts is None else ""


def _facts_of(records: list[Record], action: ActionKind) -> Facts | None:
    """Return the facts of the newest intent to do `action`; of what an older release restored, from its outcome."""
    for record in reversed(records):
        if record.data.get("action") != action.value:
            continue
        if record.kind == "intent" and "facts" in record.data:
            return dict(record.data["facts"])
        if record.kind == "outcome" and record.data.get("replaced"):
            data = record.data
            return {"path": data["path"], "version": data["version"], "newest": int(data["replaced"]) - 1}
    return None


def _on(entry: InForce) -> str:
    """Say in a word what an action is on."""
    if entry.kind is ActionKind.FREEZE:
        return hold_of(entry.facts).cgroup
    if "refusal" in entry.facts:
        return words([refusal_of(entry.facts)])[0]
    return entry.place or str(
        next((entry.facts[name] for name in ("path", "address", "device") if name in entry.facts), "")
    )
