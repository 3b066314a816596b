# SPDX-License-Identifier: Apache-2.0
"""`mamplus alerts` and `mamplus explain`."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.tree import Tree

from mamplus_host.cli.state import CLI, OUT, print_json, safe

_HASH = re.compile(r"[0-9a-f]{64}")
_COLOURS = {"confirmed": "red", "suspected": "yellow"}


def run(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, newest first.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List what was confirmed or suspected, and what was done about it."""
    alerts = CLI.call("alerts", limit=limit)
    if as_json:
        for alert in alerts:
            print_json(alert)
        return
    if not alerts:
        OUT.print("No alerts.")
        return
    table = Table(box=None, pad_edge=False, expand=True)
    for column in ("id", "when (UTC)", "finding", "times"):
        table.add_column(column, no_wrap=True)
    table.add_column("what, and what was done", ratio=1, overflow="fold")
    for alert in alerts:
        colour = _COLOURS.get(alert["finding"], "default")
        table.add_row(
            alert["id"][-8:],
            when(alert["at"])[5:],
            f"[{colour}]{alert['finding']}[/{colour}]",
            str(alert["repeats"] + 1),
            f"{safe(_HASH.sub(_short, alert['summary']))} [dim]{safe(_done(alert))}[/dim]",
        )
    OUT.print(table)


def explain(
    alert_id: Annotated[str, typer.Argument(metavar="ID", help="As `mamplus alerts` shows it; its end is enough.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what was decided and why: entry, generation, source, kernel or user space."""
    alert = CLI.call("explain", id=alert_id)
    if as_json:
        print_json(alert)
        return
    tree = Tree(f"[bold]{alert['id']}[/bold]  {when(alert['at'])}")
    tree.add(f"{alert['finding']}: {safe(alert['summary'])}")
    tree.add(f"rule {safe(alert['rule'])}, decided in {alert['decided_in']}, generation {alert['generation']}")
    if alert.get("entry"):
        entry = tree.add(f"entry {alert['entry']['id']}: {safe(alert['entry']['value'])}")
        for name in ("source", "reason", "message", "link"):
            if alert["entry"][name]:
                entry.add(f"{name}: {safe(alert['entry'][name])}")
    done = tree.add("done")
    for action in alert["actions"] + alert["later"]:
        done.add(f"{action['action']}: {action['state']} {safe(action['detail'])}")
    _add(tree.add("evidence"), alert["evidence"])
    OUT.print(tree)


def _add(tree: Tree, value: Any) -> None:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for name, item in items:
        if isinstance(item, dict | list):
            if item:
                _add(tree.add(safe(name)), item)
        else:
            tree.add(f"{safe(name)}: {safe(item)}")


def _done(alert: dict[str, Any]) -> str:
    actions = [f"{action['action']} {action['state']}" for action in alert["actions"] + alert["later"]]
    return ", ".join(dict.fromkeys(actions))


def _short(digest: "re.Match[str]") -> str:
    """The first 12 digits of a hash tell it apart; `explain` shows it whole."""
    return f"{digest[0][:12]}…"


def when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
