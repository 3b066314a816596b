# SPDX-License-Identifier: Apache-2.0
"""`mamplus ble ...`: with and without a running agent; an agent that runs is told to swap."""

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated

import typer

from mamplus_host.ble import update
from mamplus_host.ble.entry import Entry
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.stack import Stack
from mamplus_host.ble.update import FetchResult
from mamplus_host.cli import dry_run, history, standing
from mamplus_host.cli.state import CLI, ERR, OUT, print_json, safe
from mamplus_host.cli.table import print_table
from mamplus_host.clock import DeviceClock
from mamplus_host.control import client
from mamplus_host.errors import AgentUnreachable, MamplusError
from mamplus_host.generations.age import in_words

_LOAD_HELP = """Load a generation from SRC: a carrier file, a directory (USB stick), or the enterprise's URL.

Exit codes: 0 installed, or nothing newer; 11 invalid; 12 expired; 13 rollback; 14 wrong device;
15 emptied or shrunk."""
_SHOWN = 200  # entries, where nobody said how many
DryRun = Annotated[bool, typer.Option("--dry-run", help="Install nothing; say what it would newly block here.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
app = typer.Typer(no_args_is_help=True, help="Look at the black list (BLE), and bring it up to date.")


@app.callback()
def group() -> None:
    """Look at the black list (BLE), and bring it up to date."""


@app.command("load", help=_LOAD_HELP)
def load(
    source: Annotated[str, typer.Argument(metavar="SRC")], is_dry: DryRun = False, as_json: AsJson = False
) -> None:
    """Verify and install a generation from a carrier."""
    if is_dry:
        dry_run.run(source, as_json=as_json)
    else:
        _install(source, as_json=as_json)


@app.command("refresh")
def refresh(is_dry: DryRun = False, as_json: AsJson = False) -> None:
    """Ask the enterprise for a newer generation now."""
    if is_dry:
        dry_run.run(None, as_json=as_json)
    else:
        _install(None, as_json=as_json)


@app.command("show")
def show(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    limit: Annotated[
        int | None, typer.Option(help="Entries to show; 0: all. Default: 200, all with --json.", min=0)
    ] = None,
) -> None:
    """Show the generation in force, its layers and its entries."""
    with _current() as ble:
        count = limit if limit is not None else 0 if as_json else _SHOWN
        entries = islice(ble.entries(), count or None)
        if as_json:
            for layer, entry in entries:
                print_json({"layer": layer.word, **_plain(entry), "id": entry.id, "valid_until": entry.valid_until})
            return
        _print_layers(ble)
        if ble.count:
            _print_entries(entries)
        if count and count < ble.count:
            ERR.print(f"... and {ble.count - count} more; --limit 0 shows all", style="dim")


def _print_layers(ble: Stack) -> None:
    age_s = max(0.0, DeviceClock(CLI.config.state).list_s() - ble.created_s)
    OUT.print(f"generation {ble.number}, {ble.count} entries, made {_when(ble.created_s)} ({in_words(age_s)} ago)")
    for line in standing.lines(standing.facts(CLI.config.state), standing.newest(CLI.config.state)):
        OUT.print(safe(line), style="yellow")
    for files in ble.layers:
        on_top = f", {len(files.deltas)} deltas on generation {files.base.number}" if files.deltas else ""
        OUT.print(f"  {files.layer.word}: generation {files.number}, {files.count} entries{on_top}")


def _print_entries(entries: Iterable[tuple[Layer, Entry]]) -> None:
    columns = ("id", "layer", "kind", "value", "verdict", "until", "reason", "source")
    plain = ((layer, list(_plain(entry).values())) for layer, entry in entries)
    rows = [(number, layer.word, *rest) for layer, (number, *rest) in plain]
    print_table(columns, rows, expendable=("source", "until", "reason", "layer", "id"), prose="reason")


def _plain(entry: Entry) -> dict[str, str]:
    until = _when(entry.valid_until) if entry.valid_until else ""
    return {
        "id": str(entry.id), "kind": entry.kind.name.lower(), "value": entry.value,
        "verdict": entry.verdict.name.lower(), "valid_until": until, "reason": entry.reason, "source": entry.source,
    }  # fmt: skip


app.command("history")(history.run)
app.command("accept")(standing.accept)


def _install(source: str | None, *, as_json: bool) -> None:
    with ERR.status("fetching and verifying ..."):
        result = update.update(CLI.config.state, source=source)
    if result.note:
        ERR.print(safe(result.note), soft_wrap=True)
    if not as_json:
        OUT.print(_installed(result), soft_wrap=True)
    enforced = _have_enforced(result)
    if as_json:
        names = ("generation", "entries", "new", "layers", "bytes", "took_s")
        print_json({name: getattr(result, name) for name in names} | {"enforcing": enforced})
    elif enforced is not None:
        OUT.print(f"enforcing generation {enforced}")


def _installed(result: FetchResult) -> str:
    if not result.new:
        return f"nothing newer: generation {result.generation} is installed{history.since(CLI.config.state)}"
    return (
        f"installed generation {result.generation} ({result.entries} entries, verified in {result.took_s:.2f} s,"
        f" {result.bytes} bytes read)"
    )


def _have_enforced(result: FetchResult) -> int | None:
    """Have the agent take what was installed; return the generation that it enforces now, None: no agent runs."""
    try:
        swapped = client.call(CLI.config.control_socket, "reload")
        for line in standing.lines(standing.facts(CLI.config.state), swapped["newest"]):
            ERR.print(safe(line), style="yellow", soft_wrap=True)
        if result.is_long and update.compact(CLI.config.state):
            client.call(CLI.config.control_socket, "reload")  # so that it lets go of the files that were merged
        return int(swapped["generation"])
    except AgentUnreachable:
        ERR.print("No agent runs: the next one enforces it.", style="dim")
        return None


def _current() -> Stack:
    ble = standing.open_in_force(CLI.config.state)
    if ble is None:
        raise MamplusError("no generation is installed; enroll and `mamplus ble refresh`, or `mamplus ble load SRC`")
    return ble


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
