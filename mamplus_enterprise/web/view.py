# SPDX-License-Identifier: Apache-2.0
"""What the console shows, as plain values for the templates. Everything from a device is untrusted text."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy import select
from sqlalchemy.orm import Session

from mamplus_enterprise.alerts.listing import counts, listing
from mamplus_enterprise.ble.author import unpublished
from mamplus_enterprise.ble.repository import Published
from mamplus_enterprise.devices import orders
from mamplus_enterprise.devices.controls import rank
from mamplus_enterprise.devices.registry import all_devices, one_device
from mamplus_enterprise.storage.schema import GenerationRow
from mamplus_enterprise.times import clock
from mamplus_host.verdicts import Severity

PAGE = 50  # alerts
MAX_HISTORY = 12
MAX_DEVICES = 500
MAX_ORDERS = 20
_PLACED = ("processes", "lineage", "sockets", "file")  # evidence that has a place of its own on the page


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address of the page says."""

    state: str = "open"
    before: int = 0


def overview(session: Session, published: Published, asked: Asked) -> dict[str, Any]:
    """Return everything that the console's page shows."""
    alerts = listing(session, asked.state, before=asked.before, limit=PAGE + 1)
    devices = all_devices(session, current=published.generation)
    history = session.scalars(select(GenerationRow).order_by(GenerationRow.number.desc()).limit(MAX_HISTORY)).all()
    page = {
        "published": published, "history": history, "waiting": unpublished(session),
        "devices": devices[:MAX_DEVICES], "device_count": len(devices),
        "behind_count": sum(device["behind"] > 0 for device in devices),
        "orders": orders.all_orders(session, limit=MAX_ORDERS),
        "alerts": [_alert(alert) for alert in alerts[:PAGE]], "counts": counts(session), "asked": asked,
        "older": alerts[PAGE - 1]["number"] if len(alerts) > PAGE else 0,
    }  # fmt: skip
    return page | {"mark": _mark(page)}


def device_page(session: Session, published: Published, device_id: str) -> dict[str, Any]:
    """Return everything that the page of one device shows; Unknown when there is none of that id."""
    device = one_device(session, device_id, current=published.generation)
    controls = device["examined"].get("controls", [])
    groups: dict[str, list[dict[str, Any]]] = {}
    for control in controls:
        groups.setdefault(control["group"], []).append(control)
    ordered = orders.all_orders(session, device_id=device["id"], limit=MAX_ORDERS)
    shown = repr((device["generation"], device["behind"], controls, len(device["changes"]), _stand(ordered)))
    return {
        "device": device, "examined": device["examined"], "groups": groups, "changes": device["changes"],
        "orders": ordered, "published": published, "mark": hashlib.sha256(shown.encode()).hexdigest()[:16],
    }  # fmt: skip


def state_class(state: str) -> str:
    """Return the colour of a control's state; one that this release does not know is shown as the worst."""
    return ("good", "late", "hot")[min(rank(state), 2)]


def order_class(state: str) -> str:
    """Return the colour of what became of an order."""
    return {orders.DONE: "good", orders.WAITING: "late", orders.WITHDRAWN: ""}.get(state, "hot")


def _stand(ordered: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(one["id"], one["state"], one["handed_at"]) for one in ordered]


def _mark(page: Mapping[str, Any]) -> str:
    """Return a value that changes when the page has something new to say; being heard again is nothing new."""
    devices = [
        (device["id"], device["generation"], device["open_alerts"], device["controls"] and device["controls"]["counts"])
        for device in page["devices"]
    ]
    newest = page["alerts"][0]["number"] if page["alerts"] else 0
    said = (page["published"].generation, page["waiting"], page["counts"], newest, devices, _stand(page["orders"]))
    return hashlib.sha256(repr(said).encode()).hexdigest()[:16]


def _alert(alert: dict[str, Any]) -> dict[str, Any]:
    evidence: dict[str, Any] = alert.get("evidence") or {}
    rest = {key: value for key, value in evidence.items() if key not in _PLACED}
    trees = (("Processes", _tree(evidence.get("processes"))), ("As started", _tree(evidence.get("lineage"))))
    return alert | {
        "severity_name": _severity(alert["severity"]),
        "trees": [(title, tree) for title, tree in trees if tree],
        "sockets": [_socket(one) for one in _dicts(evidence.get("sockets"))],
        "file": _pairs(evidence["file"]) if isinstance(evidence.get("file"), dict) else [],
        "rest": json.dumps(rest, indent=2, ensure_ascii=False) if rest else "",
    }


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _pairs(facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [(str(key), _text(value)) for key, value in facts.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _tree(value: Any) -> list[dict[str, str]]:
    """Return processes with the oldest ancestor first; they are sent nearest first."""
    return [_process(facts) for facts in reversed(_dicts(value))]


def _process(facts: dict[str, Any]) -> dict[str, str]:
    cmdline = facts.get("cmdline")
    return {
        "name": _text(facts.get("exe") or facts.get("path") or facts.get("comm") or "?"),
        "pid": _text(facts.get("pid", facts.get("tgid", "?"))),
        "uid": _text(facts.get("uid", "?")),
        "words": " ".join(map(_text, cmdline)) if isinstance(cmdline, list) else "",
    }


def _socket(facts: dict[str, Any]) -> str:
    if not {"proto", "local", "remote", "state"} <= facts.keys():
        return _text(facts)
    proto, local, remote, state = (_text(facts[name]) for name in ("proto", "local", "remote", "state"))
    return f"{proto} {local} → {remote} {state}, pid {_text(facts.get('pid', '?'))}"


def _severity(number: int) -> str:
    return Severity(number).name.lower() if number in Severity.__members__.values() else str(number)


def ago(seconds: float | None) -> str:
    """Return how long ago that was, in the largest unit that fits."""
    if not seconds:
        return "never"
    past = max(0, int(time.time() - seconds))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if past >= size:
            return f"{past // size} {unit} ago"
    return "just now" if past < 10 else f"{past} s ago"


def environment() -> Environment:
    """Return the templates' surroundings: everything is escaped, a missing name is an error."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"clock": clock, "ago": ago, "state_class": state_class, "order_class": order_class}
    return made
