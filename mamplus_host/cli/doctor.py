# SPDX-License-Identifier: Apache-2.0
"""`mamplus doctor`: needs root, but no agent and no configuration."""

import os
from typing import Annotated, Any

import typer

from mamplus_host.age import in_words
from mamplus_host.ble.store import BleStore
from mamplus_host.cli import standing
from mamplus_host.cli.state import CLI, ERR, OUT, print_json, safe
from mamplus_host.errors import MamplusError, NotPossible
from mamplus_host.jsonlines import to_builtins

_COLOURS = {"enforcing": "green", "degraded": "yellow", "not possible": "red"}


def run(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Say what this kernel allows: each control is tried for real, with the tier it got.

    Exit 0 when every control works, at whatever tier; 1 when one is not possible.
    """
    if os.geteuid() != 0:
        raise NotPossible("trying the controls needs root; run: sudo mamplus doctor")
    from mamplus_host.doctor import examine  # the native extension: other commands do without
    from mamplus_host.kernel.features import probe

    trials = []
    for trial in examine():
        trials.append(trial)
        if not as_json:
            colour = _COLOURS[trial.state]
            OUT.print(
                f"[{colour}]{trial.state:<12}[/{colour}] [bold]{trial.control:<24}[/bold] {safe(trial.tier)}"
                f" [dim]({trial.took_ms:.0f} ms)[/dim]\n{'':13}{safe(trial.detail)}",
                soft_wrap=True,
            )
    features = to_builtins(probe())
    worst = int(any(trial.state == "not possible" for trial in trials))
    ours = _list_here()
    if as_json:
        print_json({"controls": to_builtins(trials), "kernel": features, "list": ours})
        raise typer.Exit(worst)
    OUT.print("\n[bold]this kernel[/bold]")
    for name, feature in (features | features.pop("optional")).items():
        OUT.print(f"  {safe(name):<22} {safe(feature)}", soft_wrap=True)
    if ours:
        OUT.print(f"\n[bold]the list here[/bold]\n  {_in_force(ours)}", soft_wrap=True)
        for line in standing.lines(ours, ours["newest"]):
            OUT.print(f"  {safe(line)}", style="yellow", soft_wrap=True)
    if worst:
        ERR.print("A control is not possible here: what it would refuse is at best noticed.")
    raise typer.Exit(worst)


def _list_here() -> dict[str, Any]:
    """Return where the list of this device stands; nothing where there is no configuration or no list."""
    try:
        state = CLI.config.state
    except MamplusError:
        return {}
    if not (state / "ble").is_dir():
        return {}
    newest = next((record.number for record in BleStore(state).records()), 0)
    return {"newest": newest, **standing.facts(state)} if newest else {}


def _in_force(ours: dict[str, Any]) -> str:
    number = ours["in_force"] or ours["newest"]
    proof = "" if ours["age"] == "unknown" else f", proved to be the newest {in_words(ours['proved_s_ago'])} ago"
    return f"generation {number}: {ours['age']}{proof}"
