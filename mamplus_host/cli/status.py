# SPDX-License-Identifier: Apache-2.0
"""`mamplus status`."""

from typing import Annotated, Any

import typer
from rich.table import Table

from mamplus_host.cli.alerts import when
from mamplus_host.cli.state import CLI, OUT, print_json, safe

_TIMES = ("last_contact", "signed_at")  # seconds since the epoch; 0: it never was


def run(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Show the agent: generation and its age, hooks, losses, queue, memory."""
    status = CLI.call("status")
    if as_json:
        print_json(status)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for group, values in status.items():
        table.add_row(safe(group), _line(values))
    OUT.print(table)


def _line(values: Any) -> str:
    if isinstance(values, dict):
        return "  ".join(f"{safe(key)} [cyan]{safe(_shown(key, value))}[/cyan]" for key, value in values.items())
    if isinstance(values, list):
        return "\n".join(_line(value) for value in values) or "none"
    return safe(values)


def _shown(key: str, value: Any) -> str:
    if key in _TIMES:
        return f"{when(value)} UTC" if value else "never"
    return _short(value)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, dict):
        return ", ".join(f"{key}={_inner(item)}" for key, item in value.items()) or "none"
    return "none" if value in (None, [], "") else str(value)


def _inner(value: Any) -> str:
    """What belongs together stays together: `enterprise=(generation=2, entries=3)`."""
    return f"({_short(value)})" if isinstance(value, dict) else _short(value)
