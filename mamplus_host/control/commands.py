# SPDX-License-Identifier: Apache-2.0
"""What the control socket can ask of the agent, one method a command; runs in the agent's loop."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mamplus_host.control.protocol import Request
from mamplus_host.control.render import event_view
from mamplus_host.control.server import FOLLOW
from mamplus_host.errors import ControlMalformed
from mamplus_host.jsonlines import to_builtins
from mamplus_host.kernel import fileguards
from mamplus_host.pipeline import event_kind

if TYPE_CHECKING:
    from mamplus_host.service import Service

MAX_LIST = 10_000


class Commands:
    """Answers requests from the service's parts."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._handlers: dict[str, Callable[..., Any]] = {
            "status": service.status,
            "events": self.events,
            "follow": lambda: FOLLOW,
            "alerts": self.alerts,
            "explain": self.explain,
            "undo": self.undo,
            "protect": self.protect,
            "unprotect": self.unprotect,
            "vault-list": self.vault_list,
            "restore": self.restore,
            "reload": service.reload,
            "accept": service.accept,
            "situation": service.generations.situation,
            "maintenance-begin": service.maintenance.begin,
            "maintenance-status": service.maintenance.status,
            "maintenance-end": service.maintenance.end,
            "admit": self.admit,
            "identity-changed": service.identity_changed,
        }

    def __call__(self, request: Request) -> Any:
        """Return the answer to `request`; ControlMalformed for an unknown command or wrong arguments."""
        handler = self._handlers.get(request.command)
        if handler is None:
            raise ControlMalformed(f"unknown command {request.command!r}; known: {', '.join(sorted(self._handlers))}")
        try:
            return to_builtins(handler(**request.arguments))
        except TypeError as error:
            raise ControlMalformed(f"wrong arguments for {request.command!r}: {error}") from None

    def admit(self, pid: int) -> int:
        """Let a command beside the agent write the agent's state, where the kernel guards it."""
        return fileguards.admit(self._service.config, guest=pid)

    def events(self, limit: int = 50) -> list[dict[str, Any]]:
        recent = list(self._service.pipeline.recent)
        return [event_view(event, event_kind(event)) for event in recent[max(0, len(recent) - limit) :]]

    def alerts(self, limit: int = 50) -> list[dict[str, Any]]:
        return self._service.alerts.list(limit=min(limit, MAX_LIST))

    def explain(self, id: str) -> dict[str, Any]:
        alert = self._service.alerts.get(id)
        entry = self._service.store.entry(alert["generation"], alert["entry_id"])
        return {**alert, "entry": to_builtins(entry) if entry else None}

    def undo(self, id: str) -> Any:
        alert_id = self._service.alerts.get(id)["id"]
        outcomes = self._service.executor.undo(alert_id)
        self._service.alerts.note_outcomes(outcomes)
        return outcomes

    def protect(self, path: str) -> list[str]:
        kept = self._service.vault.protect(Path(path))
        self._service.watch(kept)
        return kept

    def unprotect(self, path: str) -> list[str]:
        return self._service.vault.unprotect(Path(path))

    def vault_list(self) -> Any:
        return self._service.vault.list()

    def restore(self, path: str, at: float | None = None) -> str:
        restored = self._service.vault.restore(Path(path), at=at)
        return f"restored {path}" + (f"; {restored.note}" if restored.note else "")
