# SPDX-License-Identifier: Apache-2.0
"""`mamplus outbox`: what waits for the enterprise, and the way there without a network."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from mamplus_host.cli.alerts import when
from mamplus_host.cli.state import CLI, ERR, OUT, print_json, safe
from mamplus_host.cli.table import print_table
from mamplus_host.errors import EnrollRefused, NotPossible

app = typer.Typer(no_args_is_help=True, help="Look at what waits for the enterprise, and carry it there by hand.")


@app.callback()
def group() -> None:
    """Look at what waits for the enterprise, and carry it there by hand."""


@app.command("list")
def show(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """List the escalations that wait, in the order in which they are sent; with and without a running agent."""
    from mamplus_host.outbox.export import pending

    waiting = pending(CLI.config.state / "outbox.sqlite")
    if as_json:
        for one in waiting:
            print_json({"seq": one.seq, **one.fields})
        return
    rows = [
        (one.seq, when(float(str(one.fields["at"]))), one.severity, one.fields["id"], one.fields["summary"])
        for one in waiting
    ]
    if not rows:
        OUT.print("Nothing waits.")
        return
    columns = ("number", "when (UTC)", "severity", "id", "what")
    print_table(columns, rows, expendable=("severity", "when (UTC)"), prose="what")


@app.command("export")
def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new file, as on a USB stick.")],
    force: Annotated[bool, typer.Option("--force", help="Write over OUT.")] = False,
) -> None:
    """Write what waits to OUT, for the enterprise's eyes only: `mamplus-enterprise alerts import OUT`.

    Everything stays queued until the enterprise acknowledges it; it stores each alert once.
    """
    from mamplus_host.ble.trust_memory import seal_key
    from mamplus_host.clock import SystemClock
    from mamplus_host.files import write_whole
    from mamplus_host.outbox.export import export as export_now
    from mamplus_host.outbox.identity import Identity
    from mamplus_host.sealed import seal

    state = CLI.config.state
    if out.exists() and not force:
        raise NotPossible(f"{str(out)!r} is there already; name another file, or say --force")
    identity = Identity.load(state)
    key = seal_key(state)
    if key is None:
        raise EnrollRefused(
            "the enterprise's root names no key to encrypt for; get a newer list first: mamplus ble load"
        )
    made = export_now(state / "outbox.sqlite", identity.device_id, identity.sign, now_s=SystemClock().wall_s())
    if not made.alerts:
        ERR.print("Nothing waits: nothing was written.", style="dim")
        return
    write_whole(out, seal(msgspec.json.encode(made), key), mode=0o644)
    OUT.print(f"exported {len(made.alerts)} alerts to {safe(out)}, readable for the enterprise alone")
