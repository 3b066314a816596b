# SPDX-License-Identifier: Apache-2.0
"""`mamplus events`."""

from typing import Annotated, Any

import typer

from mamplus_host.cli.state import CLI, OUT, print_json, safe
from mamplus_host.control import client

_COLOURS = {"block": "red", "suspect": "yellow", "allow": "green"}
_HIDDEN = {"kind", "boot_ns", "pid", "ppid", "uid", "comm", "verdict", "generation", "cgroup_id", "flags"}


def run(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="How many past events.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show what the probes see: programs, connections, packets, files."""
    show = print_json if as_json else _show
    for event in CLI.call("events", limit=limit):
        show(event)
    if follow:
        for event in client.stream(CLI.socket, "follow"):
            show(event)


def _show(event: dict[str, Any]) -> None:
    verdict = event.get("verdict", "")
    what = "  ".join(
        f"{name}={safe(value)}" for name, value in event.items() if name not in _HIDDEN and value not in ("", 0, False)
    )
    colour = _COLOURS.get(verdict, "default")
    flags = ",".join(event.get("flags", []))
    OUT.print(
        f"{event['boot_ns'] / 1e9:14.6f}  [{colour}]{event['kind']:<8}{verdict:<8}[/{colour}]"
        f" {event.get('pid', event.get('tgid', 0)):>7} {safe(event.get('comm', '')):<16} {what}"
        + (f"  [dim]{safe(flags)}[/dim]" if flags else ""),
        soft_wrap=True,
    )
