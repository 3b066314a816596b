# SPDX-License-Identifier: Apache-2.0
"""`mamplus actions` and `mamplus rules`: what is in force on this device, and which rules disarmed themselves."""

from typing import Annotated, Any

import typer
from rich.table import Table

from mamplus_host.cli.alerts import when
from mamplus_host.cli.state import CLI, OUT, print_json, safe
from mamplus_host.generations.age import in_words

app = typer.Typer(invoke_without_command=True, help="Look at the actions in force, and whether the device shows them.")
rules_app = typer.Typer(invoke_without_command=True, help="Look at rules that disarmed themselves, and arm them again.")
_Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.callback()
def show(context: typer.Context, as_json: _Json = False) -> None:
    """List the actions in force, and how long each still holds."""
    if context.invoked_subcommand is not None:
        return
    actions = CLI.call("actions")
    if as_json:
        for action in actions:
            print_json(action)
        return
    if not actions:
        OUT.print("No action is in force.")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("id", "since (UTC)", "holds for", "on"):
        table.add_column(column, overflow="fold")
    for action in actions:
        table.add_row(safe(action["id"]), when(action["since"]), _left(action), safe(action["on"]))
    OUT.print(table)


@app.command("verify")
def verify(
    action_id: Annotated[str, typer.Argument(metavar="ID", help="Of an action or an alert.")], as_json: _Json = False
) -> None:
    """Look at the device: is what was done about an alert there, and what was undone gone? Exit code 1: not all."""
    seen = CLI.call("actions-verify", id=action_id)
    for one in seen:
        if as_json:
            print_json(one)
        else:
            mark = "as it should be" if one["seen"] == one["wanted"] else f"should be {one['wanted']}"
            OUT.print(f"{safe(one['id'])}: {safe(one['seen'])}, {mark}")
    if any(one["seen"] != one["wanted"] for one in seen):
        raise typer.Exit(1)


@rules_app.callback()
def rules(context: typer.Context, as_json: _Json = False) -> None:
    """List the rules that disarmed themselves: they acted on many different programs at once."""
    if context.invoked_subcommand is not None:
        return
    found = CLI.call("rules")
    if as_json:
        for rule in found:
            print_json(rule)
        return
    if not found:
        OUT.print("No rule is disarmed.")
    for rule in found:
        OUT.print(f"{safe(rule['key'])}: disarmed {when(rule['at'])} after {len(rule['programs'])} or more programs:")
        for program in rule["programs"]:
            OUT.print(f"    {safe(program)}")


@rules_app.command("rearm")
def rearm(key: Annotated[str, typer.Argument(metavar="RULE", help="As `mamplus rules` shows it.")]) -> None:
    """Have a rule act again."""
    rule = CLI.call("rules-rearm", key=key)
    OUT.print(f"{safe(rule['key'])}: armed")


def _left(action: dict[str, Any]) -> str:
    if action["left_s"] is None:
        return "until it is undone"
    return in_words(action["left_s"]) + (", then it is ended" if action["on_end"] == "kill" else "")
