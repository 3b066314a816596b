# SPDX-License-Identifier: Apache-2.0
"""`devices`: what each device enforces."""

from typing import Annotated

import typer

from mamplus_enterprise.cli.shared import opened, print_json, print_table
from mamplus_enterprise.times import clock


def devices(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False
) -> None:
    """List devices: id, name, generation, when last heard, alerts."""
    from mamplus_enterprise.ble import repository
    from mamplus_enterprise.devices.registry import all_devices

    with opened(context) as (home, store), store.reading() as session:
        rows = all_devices(session, current=repository.current(home).generation)
    if as_json:
        return print_json(rows)
    cells = [
        (row["name"], row["id"][:12], row["generation"], _behind(row["behind"]), clock(row["last_seen"]), row["alerts"])
        for row in rows
    ]
    return print_table(("NAME", "ID", "GENERATION", "", "LAST SEEN", "ALERTS"), cells)


def _behind(generations: int) -> str:
    return f"{generations} behind" if generations else "current"
