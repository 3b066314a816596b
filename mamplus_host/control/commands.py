# SPDX-License-Identifier: Apache-2.0
"""What the control socket can ask of the agent, one method a command; runs in the agent's loop."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mamplus_host.control.guests import Guests
from mamplus_host.control.protocol import Request
from mamplus_host.control.render import event_view
from mamplus_host.control.server import FOLLOW, Peer
from mamplus_host.errors import ControlMalformed, NotPossible
from mamplus_host.executor.vault.tree import Step
from mamplus_host.executor.vault.window import BY_PERSON
from mamplus_host.jsonlines import to_builtins
from mamplus_host.kernel import filepage
from mamplus_host.pipeline import event_kind
from mamplus_host.verdicts import ActionKind, Outcome

if TYPE_CHECKING:
    from mamplus_host.service import Service

MAX_LIST = 10_000
ID_LENGTH = 26  # of an alert's id
MOST_S = 365 * 86_400  # that an action may last by a person's word, as by a policy's
BY_PERSONS = {  # what a command starts, and whether it can be undone
    "quarantine": True, "evidence": True, "lock": False, "container-lock": False, "radio": True, "usb": True,
    "mount": True, "wipe": False, "cut": False, "refuse": True,
}  # fmt: skip


class Commands:
    """Answers requests from the service's parts."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._guests = Guests(
            lambda pid: filepage.admit(service.config, guest=pid), lambda: filepage.dismiss(service.config)
        )
        self._handlers: dict[str, Callable[..., Any]] = {
            "status": service.status,
            "events": self.events,
            "follow": lambda: FOLLOW,
            "alerts": self.alerts,
            "explain": self.explain,
            "undo": self.undo,
            "act": self.act,
            "actions": service.executor.in_force,
            "actions-verify": self.actions_verify,
            "rules": service.executor.disarmed.all,
            "rules-rearm": self.rules_rearm,
            "isolate-on": service.isolating.on,
            "isolate-off": service.isolating.off,
            "protect": self.protect,
            "unprotect": self.unprotect,
            "vault-list": self.vault_list,
            "vault-versions": self.vault_versions,
            "vault-plan": self.vault_plan,
            "vault-put": self.vault_put,
            "vault-window": self.vault_window,
            "restore": self.restore,
            "reload": service.reload,
            "accept": service.accept,
            "situation": service.generations.situation,
            "maintenance-begin": service.maintenance.begin,
            "maintenance-status": service.maintenance.status,
            "maintenance-end": service.maintenance.end,
            "identity-changed": service.identity_changed,
        }
        self._of_peer: dict[str, Callable[..., Any]] = {"admit": self._guests.let_in}  # go by who asks

    def __call__(self, request: Request, peer: Peer) -> Any:
        """Return the answer to `request`, or a Future of it; ControlMalformed: an unknown command, wrong arguments."""
        who = (peer,) if request.command in self._of_peer else ()
        known = self._handlers | self._of_peer
        handler = known.get(request.command)
        if handler is None:
            raise ControlMalformed(f"unknown command {request.command!r}; known: {', '.join(sorted(known))}")
        try:
            result = handler(*who, **request.arguments)
            return _then(result, to_builtins) if isinstance(result, Future) else to_builtins(result)
        except TypeError as error:
            raise ControlMalformed(f"wrong arguments for {request.command!r}: {error}") from None

    def events(self, limit: int = 50) -> list[dict[str, Any]]:
        recent = self._service.pipeline.past.recent()
        return [event_view(event, event_kind(event)) for event in recent[max(0, len(recent) - limit) :]]

    def alerts(self, limit: int = 50) -> list[dict[str, Any]]:
        return self._service.alerts.list(limit=min(limit, MAX_LIST))

    def explain(self, id: str) -> dict[str, Any]:
        alert = self._service.alerts.get(id)
        entry = self._service.store.entry(alert["generation"], alert["entry_id"])
        return {**alert, "entry": to_builtins(entry) if entry else None}

    def undo(self, id: str) -> Any:
        def noted(outcomes: list[Outcome]) -> list[Outcome]:
            self._service.pipeline.note_late(outcomes)
            return outcomes

        return _then(self._service.executor.begin_undo(self._action_id(id)), noted)

    def act(self, kind: str, target: dict[str, Any], ttl_s: int = 0) -> Any:
        """Do one action on a person's word; ActionFailed says why it could not be done, NotPossible in monitor mode."""
        if kind not in BY_PERSONS:
            raise ControlMalformed(f"no person starts {kind!r}; want one of {', '.join(sorted(BY_PERSONS))}")
        if not 0 <= ttl_s <= MOST_S:
            raise ControlMalformed(f"{kind} for {ttl_s} s; want 1 to {MOST_S} s, or no time at all")
        if self._service.config.agent.mode == "monitor":
            raise NotPossible(f'the agent only watches: [agent] mode = "monitor"; set it to "enforce" for {kind!r}')

        def told(done: Outcome) -> dict[str, str]:
            self._service.tell_receipts()
            action_id = f"{done.decision_id}-{kind}"
            undo = action_id if BY_PERSONS[kind] else ""
            return {"id": action_id, "alert": done.decision_id, "action": kind, "detail": done.detail, "undo": undo}

        begun = self._service.executor.begin(
            ActionKind(kind), {**target, "ttl_s": ttl_s}, ttl_s=ttl_s, why="somebody on this device wanted it"
        )
        return _then(begun, told)

    def actions_verify(self, id: str) -> Any:
        return self._service.executor.verify(self._action_id(id))

    def rules_rearm(self, key: str) -> Any:
        rule = self._service.executor.disarmed.rearm(key)
        self._service.journal.append("note", "", {"what": "a rule was armed again", "rule": key})
        return rule

    def _action_id(self, name: str) -> str:
        """Return the id that `name` means: of an alert, whole or a part of it, or of an action that is in force."""
        alert, dash, kind = name.partition("-")
        known = {one["alert"] for one in self._service.executor.in_force()}
        found = [one for one in known if one.startswith(alert.upper()) or one.endswith(alert.upper())] if alert else []
        is_whole = dash and len(alert) == ID_LENGTH  # what the journal alone knows: it has no alert, or is undone
        whole = alert if is_whole else found[0] if len(found) == 1 else str(self._service.alerts.get(alert)["id"])
        return f"{whole}{dash}{kind}"

    def protect(self, path: str) -> list[str]:
        return self._service.protecting.protect(Path(path))

    def unprotect(self, path: str) -> list[str]:
        return self._service.protecting.unprotect(Path(path))

    def vault_list(self, path: str = "") -> Any:
        vault = self._service.vault
        return vault.list(vault.known(Path(path)) if path else "")

    def vault_versions(self, path: str) -> Any:
        return self._service.vault.versions(Path(path))

    def vault_plan(self, path: str, at: float | None = None) -> Any:
        return self._service.vault.plan(Path(path), at=at)

    def vault_put(self, steps: list[dict[str, Any]]) -> list[str]:
        """Do a part of a plan; return what went wrong, in words."""
        return self._service.protecting.put(msgspec.convert(steps, list[Step]))

    def vault_window(self, act: str = "status", minutes: float = 0, by: str = BY_PERSON) -> dict[str, Any]:
        protecting = self._service.protecting
        if act == "open":
            protecting.open_window(minutes, by)
        elif act == "close":
            protecting.close_window(by)
        elif act != "status":
            raise ControlMalformed(f"{act!r} is nothing that a window does; want open, close or status")
        return protecting.window_state()

    def restore(self, path: str, at: float | None = None) -> str:
        restored = self._service.vault.restore(Path(path), at=at)
        return f"restored {path}" + (f"; {restored.note}" if restored.note else "")


def _then(begun: "Future[Any]", change: Callable[[Any], Any]) -> "Future[Any]":
    """Return the Future of what `change` makes of the result; an error stays the error it is."""
    changed: Future[Any] = Future()

    def over(done: "Future[Any]") -> None:
        try:
            changed.set_result(change(done.result()))
        except Exception as error:
            changed.set_exception(error)

    begun.add_done_callback(over)
    return changed
