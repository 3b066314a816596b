# SPDX-License-Identifier: Apache-2.0
"""`mamplus ble history`: which generations came to this device, and what became of each."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from mamplus_host.ble import standing
from mamplus_host.ble.record import Change, Installed
from mamplus_host.ble.standing import Standing
from mamplus_host.ble.store import BleStore
from mamplus_host.cli.state import CLI, OUT, print_json, safe
from mamplus_host.jsonlines import to_builtins


def run(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """Show which generations came, when, from where, what each changed and what became of it; newest first."""
    kept, _fault = standing.read(CLI.config.state)
    records = BleStore(CLI.config.state).records()
    if not records and not as_json:
        OUT.print("No generation was ever installed.")
    for record in records:
        if as_json:
            print_json(_plain(record, kept))
            continue
        marks = "".join(f", {mark}" for mark in _marks(record, kept))
        OUT.print(
            f"{record.number:>6}  {_when(record.installed_at)}  {record.entries} entries  {safe(record.source)}"
            f"{_cost(record)}{marks}",
            soft_wrap=True,
        )
        for change in record.changed:
            OUT.print(f"        {_changed(change)}", style="dim", soft_wrap=True)


def since(state: Path) -> str:
    """Say when and how what is installed came, as the end of a sentence; "" when nothing is."""
    for record in BleStore(state).records():
        return f", since {_when(record.installed_at)} from {safe(record.source)}{_cost(record)}"
    return ""


def _plain(record: Installed, kept: Standing) -> dict[str, Any]:
    """Return what others may build on: the files that a layer is made of are the store's own business."""
    return {
        "number": record.number, "entries": record.entries, "bytes": record.bytes, "source": record.source,
        "created_s": record.created_s, "installed_at": record.installed_at, "marks": _marks(record, kept),
        "layers": {one.layer: {"number": one.number, "entries": one.entries} for one in record.layers},
        "changed": to_builtins(record.changed),
    }  # fmt: skip


def _marks(record: Installed, kept: Standing) -> list[str]:
    """Return what became of a generation, in the order in which it happened."""
    found = {
        "held": kept.held is not None and kept.held.state == record.state,
        "rolled back": record.state in {mark.state for mark in kept.marks},
        "accepted": kept.accepted == record.state,
        "in force": kept.state == record.state,
    }
    return [mark for mark, is_so in found.items() if is_so]


def _cost(record: Installed) -> str:
    return f", {record.bytes} bytes" if record.bytes else ""


def _changed(change: Change) -> str:
    """Say what came in a layer: `enterprise 7 to 8: 3 changes, 10 to 11 entries`."""
    since = f"{change.before} to " if change.before else ""
    how = f"{change.changes} changes" if change.is_delta else "a whole list"
    counts = f"{change.entries_before} to {change.entries} entries"
    return f"{change.layer} {since}{change.number}: {how}, {counts}"


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
