# SPDX-License-Identifier: Apache-2.0
"""`devices`: what each device enforces, and what came of trying its controls."""

from typing import Annotated, Any

import typer

from mamplus_enterprise.cli.shared import opened, print_json, print_table
from mamplus_enterprise.times import clock

commands = typer.Typer(help="List devices, or look at one.", invoke_without_command=True)
AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines.")]


@commands.callback()
def listed(context: typer.Context, as_json: AsJson = False) -> None:
    """List devices: name, id, generation, controls (the worst state), when last heard, alerts; or look at one."""
    if context.invoked_subcommand is not None:
        return None
    from mamplus_enterprise.ble import repository
    from mamplus_enterprise.devices.registry import all_devices

    with opened(context) as (home, store), store.reading() as session:
        rows = all_devices(session, current=repository.current(home).generation)
    if as_json:
        return print_json(rows)
    cells = [
        (
            row["name"], row["id"][:12], row["generation"], _behind(row["behind"]), worst(row["controls"]),
            clock(row["last_seen"]), row["alerts"],
        )
        for row in rows
    ]  # fmt: skip
    return print_table(("NAME", "ID", "GENERATION", "", "CONTROLS", "LAST SEEN", "ALERTS"), cells)


@commands.command("show")
def show(
    context: typer.Context,
    device: Annotated[str, typer.Argument(metavar="ID", help="The device's id, the beginning of it, or its name.")],
    as_json: AsJson = False,
) -> None:
    """Show a device: each of its controls with state, tier and reason, and what changed."""
    from mamplus_enterprise.ble import repository
    from mamplus_enterprise.devices.registry import one_device

    with opened(context) as (home, store), store.reading() as session:
        found = one_device(session, device, current=repository.current(home).generation)
    if as_json:
        return print_json(found)
    return _print(found)


def worst(controls: dict[str, Any] | None) -> str:
    """Return the worst state of a device's controls, and of how many."""
    from mamplus_enterprise.devices.controls import NOT_REPORTED

    if controls is None:
        return NOT_REPORTED
    number = controls["counts"].get(controls["worst"], 0)
    return f"{controls['worst']} ({number} of {sum(controls['counts'].values())})" if number else NOT_REPORTED


def _print(found: dict[str, Any]) -> None:
    examined = found["examined"]
    facts = [
        ("name", found["name"]), ("id", found["id"]),
        ("generation", f"{found['generation']}, {_behind(found['behind'])}"),
        ("last seen", clock(found["last_seen"])), ("enrolled", clock(found["enrolled_at"])),
        ("alerts", f"{found['alerts']}, {found['open_alerts']} open"), ("controls", worst(found["controls"])),
    ]  # fmt: skip
    if examined:
        facts.append(
            ("tried", f"{clock(examined['at'])} by its clock, because: {examined['why']}; kernel {examined['kernel']},"
             f" agent {examined['agent']}, generation {examined['generation']}")
        )  # fmt: skip
    print_table(("DEVICE", ""), facts)
    if examined:
        print()
        rows = [
            (one["group"], one["control"], one["state"], one["tier"] or "-", one["reason"])
            for one in examined["controls"]
        ]  # fmt: skip
        print_table(("GROUP", "CONTROL", "STATE", "TIER", "REASON"), rows)
        for way in dict.fromkeys(one["way_out"] for one in examined["controls"] if one["way_out"]):
            print_table(("TO DO BETTER", ""), [(way, ", ".join(_of(examined, way)))])
    if found["changes"]:
        print()
        past = [
            (clock(one["received_at"]), one["control"], f"{one['was']} -> {one['state']}", one["reason"])
            for one in found["changes"]
        ]  # fmt: skip
        print_table(("CHANGED", "CONTROL", "", "REASON"), past)


def _of(examined: dict[str, Any], way: str) -> list[str]:
    """Return the controls that `way` would make better."""
    return [one["control"] for one in examined["controls"] if one["way_out"] == way]


def _behind(generations: int) -> str:
    return f"{generations} behind" if generations else "current"
