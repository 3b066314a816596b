# SPDX-License-Identifier: Apache-2.0
"""`mamplus doctor`: needs root, but no agent and no configuration."""

import os
import time
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer

from mamplus_host.ble.store import BleStore
from mamplus_host.cli import standing
from mamplus_host.cli.alerts import when
from mamplus_host.cli.state import CLI, ERR, OUT, print_json, safe
from mamplus_host.config import DEFAULT_CONFIG, Config
from mamplus_host.doctor import asking, kept
from mamplus_host.doctor.trial import STATES, Trial
from mamplus_host.errors import MamplusError, NotPossible
from mamplus_host.generations.age import in_words
from mamplus_host.jsonlines import to_builtins

COLOURS = dict(zip(STATES, ("green", "yellow", "red"), strict=True))


def run(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    last: Annotated[
        bool, typer.Option("--last", help="Try nothing: show what the agent found last, and when.")
    ] = False,
) -> None:
    """Try each control for real; say what this kernel gives it, and the way to more.

    Beside a running agent, its own hooks are asked, too.
    Takes some seconds, and touches nothing outside of a place of its own.

    Exit 0 when every control works, at whatever tier; 1 when one is not possible.
    """
    if last:
        _show_last(CLI.config, as_json=as_json)
        return
    config, fault = _config()
    if os.geteuid() != 0:
        raise NotPossible("trying the controls needs root; run: sudo mamplus doctor")
    from mamplus_host.kernel.features import probe  # the native extension: other commands do without

    has_agent = config is not None and any(config.bpffs.glob("*-*"))
    found = asking.examine(config, kernel=True, agent=has_agent)
    trials = list(found) if as_json else _shown(found)
    features = to_builtins(probe())
    ours = _list_here(config)
    if as_json:
        print_json({"controls": to_builtins(trials), "kernel": features, "list": ours, "configuration_fault": fault})
        raise typer.Exit(_code(trials))
    _show_kernel(features)
    if ours:
        OUT.print(f"\n[bold]the list here[/bold]\n  {_in_force(ours)}", soft_wrap=True)
        for line in standing.lines(ours, ours["newest"]):
            OUT.print(f"  {safe(line)}", style="yellow", soft_wrap=True)
    _show_sum(trials)
    raise typer.Exit(_code(trials))


def _config() -> tuple[Config | None, str]:
    """Return the configuration of this device, None where there is none, and what is wrong with it."""
    try:
        return CLI.config, ""
    except MamplusError as error:
        if CLI.config_path == DEFAULT_CONFIG and not DEFAULT_CONFIG.exists():
            return None, ""
        ERR.print(f"{safe(error)}; the controls are tried as on a device without one", style="yellow", soft_wrap=True)
        return None, str(error)


def _code(trials: Iterable[Trial]) -> int:
    return int(any(trial.state == STATES[-1] for trial in trials))


def _shown(trials: Iterator[Trial]) -> list[Trial]:
    """Print each trial as it ends, below the name of its group."""
    done: list[Trial] = []
    for trial in trials:
        if not done or done[-1].group != trial.group:
            OUT.print(f"{'' if not done else chr(10)}[bold]{safe(trial.group)}[/bold]")
        done.append(trial)
        _print_trial(trial)
    return done


def _print_trial(trial: Trial) -> None:
    colour, tier = COLOURS[trial.state], safe(trial.tier or "-")
    OUT.print(
        f"  [{colour}]{trial.state:<12}[/{colour}]  {safe(trial.control):<28}  [cyan]{tier:<9}[/cyan]"
        f"  {safe(trial.detail)} [dim]({trial.took_ms:.0f} ms)[/dim]",
        soft_wrap=True,
    )


def _show_kernel(features: dict[str, Any]) -> None:
    OUT.print("\n[bold]this kernel[/bold]")
    for name, feature in (features | features.pop("optional", {})).items():
        OUT.print(f"  {safe(name):<22} {safe(feature)}", soft_wrap=True)


def _show_sum(trials: list[Trial]) -> None:
    counts = "  ".join(
        f"[{COLOURS[state]}]{sum(trial.state == state for trial in trials)} {state}[/{COLOURS[state]}]"
        for state in STATES
    )  # fmt: skip
    OUT.print(f"\n{counts}")
    _show_ways_out(trials)
    if _code(trials):
        ERR.print("A control is not possible here: what it would refuse is at best noticed.")


def _show_ways_out(trials: list[Trial]) -> None:
    """Say once what would make something better, with all the controls that it is for."""
    ways: dict[str, list[str]] = {}
    for trial in trials:
        if trial.way_out:
            ways.setdefault(trial.way_out, []).append(trial.control)
    for way, controls in ways.items():
        OUT.print(f"\n[bold]to do better:[/bold] {safe(way)}\n  {safe(', '.join(controls))}", soft_wrap=True)


def _show_last(config: Config, *, as_json: bool) -> None:
    """Show `state/controls.json`."""
    result, fault = kept.read(config.state)
    if result is None:
        raise NotPossible(fault or "no agent has tried its controls here yet; to try them now: mamplus doctor")
    if as_json:
        print_json({key: value for key, value in to_builtins(result).items() if key != "untold"})
        raise typer.Exit(_code(result.controls))
    age = in_words(max(0, round(time.time() - result.at)))
    OUT.print(
        f"tried {age} ago ({when(result.at)} UTC), because: {safe(result.why)}; kernel {safe(result.situation.kernel)},"
        f" agent {safe(result.situation.agent)}, generation {result.situation.generation}\n",
        soft_wrap=True,
    )
    _show_sum(_shown(iter(result.controls)))
    raise typer.Exit(_code(result.controls))


def _list_here(config: Config | None) -> dict[str, Any]:
    """Return where the list of this device stands; nothing where there is no configuration or no list."""
    if config is None or not (config.state / "ble").is_dir():
        return {}
    newest = next((record.number for record in BleStore(config.state).records()), 0)
    return {"newest": newest, **standing.facts(config.state)} if newest else {}


def _in_force(ours: dict[str, Any]) -> str:
    number = ours["in_force"] or ours["newest"]
    proof = "" if ours["age"] == "unknown" else f", proved to be the newest {in_words(ours['proved_s_ago'])} ago"
    return f"generation {number}: {ours['age']}{proof}"
