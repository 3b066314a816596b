# SPDX-License-Identifier: Apache-2.0
"""`mamplus ble ...`: with and without a running agent; an agent that runs is told to swap."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from mamplus_host.ble import update
from mamplus_host.ble.format import Generation
from mamplus_host.ble.store import BleStore
from mamplus_host.cli.state import CLI, ERR, OUT, print_json, safe
from mamplus_host.clock import DeviceClock
from mamplus_host.control import client
from mamplus_host.errors import AgentUnreachable, MamplusError
from mamplus_host.jsonlines import to_builtins

_LOAD_HELP = """Load a generation from SRC: a carrier file, a directory (USB stick), or the enterprise's URL.

Exit codes: 0 installed, or nothing newer; 11 invalid; 12 expired; 13 rollback; 14 wrong device;
15 emptied or shrunk."""
app = typer.Typer(no_args_is_help=True, help="Look at the black list (BLE), and bring it up to date.")


@app.callback()
def group() -> None:
    """Look at the black list (BLE), and bring it up to date."""


@app.command("load", help=_LOAD_HELP)
def load(source: Annotated[str, typer.Argument(metavar="SRC")]) -> None:
    """Verify and install a generation from a carrier."""
    _install(source)


@app.command("refresh")
def refresh() -> None:
    """Ask the enterprise for a newer generation now."""
    _install(None)


@app.command("show")
def show(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """Show the installed generation and its entries."""
    with _current() as ble:
        if not as_json:
            age_s = max(0.0, DeviceClock(CLI.config.state).list_s() - ble.created_s)
            OUT.print(f"generation {ble.number}, {ble.count} entries, made {_when(ble.created_s)} ({_age(age_s)} ago)")
        table = Table(box=None, pad_edge=False)
        for column in ("id", "kind", "value", "verdict", "until", "reason", "source"):
            table.add_column(column, overflow="fold")
        for entry in ble.entries():
            until = _when(entry.valid_until) if entry.valid_until else ""
            row = (
                str(entry.id),
                entry.kind.name.lower(),
                entry.value,
                entry.verdict.name.lower(),
                until,
                entry.reason,
                entry.source,
            )
            if as_json:
                keys = ("id", "kind", "value", "verdict", "valid_until", "reason", "source")
                print_json({**dict(zip(keys, row, strict=True)), "id": entry.id, "valid_until": entry.valid_until})
            else:
                table.add_row(*map(safe, row))
        if not as_json and ble.count:
            OUT.print(table)


@app.command("history")
def history(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """Show which generations were installed, when, and from where; newest first."""
    for record in BleStore(CLI.config.state).records():
        if as_json:
            print_json(to_builtins(record))
        else:
            when = _when(record.installed_at)
            OUT.print(f"{record.number:>6}  {when}  {record.entries} entries  {safe(record.source)}")


def _install(source: str | None) -> None:
    with ERR.status("fetching and verifying ..."):
        result = update.update(CLI.config.state, source=source)
    if result.note:
        ERR.print(safe(result.note))
    if not result.new:
        OUT.print(f"nothing newer: generation {result.generation} is installed")
    else:
        OUT.print(
            f"installed generation {result.generation} ({result.entries} entries, verified in {result.took_s:.2f} s)"
        )
    try:
        swapped = client.call(CLI.config.control_socket, "reload")
        OUT.print(f"enforcing generation {swapped['generation']}")
    except AgentUnreachable:
        ERR.print("No agent runs: the next one enforces it.", style="dim")


def _current() -> Generation:
    ble = BleStore(CLI.config.state).current()
    if ble is None:
        raise MamplusError("no generation is installed; enroll and `mamplus ble refresh`, or `mamplus ble load SRC`")
    return ble


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _age(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
