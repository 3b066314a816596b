# SPDX-License-Identifier: Apache-2.0
"""`mamplus status`."""

from typing import Annotated, Any

import typer
from rich.table import Table

from mamplus_host.cli.state import CLI, OUT, print_json, safe


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
        return "  ".join(f"{safe(key)} [cyan]{safe(_short(value))}[/cyan]" for key, value in values.items())
    if isinstance(values, list):
        return "\n".join(_line(value) for value in values) or "none"
    return safe(values)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, dict):
        return ", ".join(f"{key}={_short(item)}" for key, item in value.items()) or "none"
    return "none" if value in (None, [], "") else str(value)
