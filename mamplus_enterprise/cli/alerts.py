# SPDX-License-Identifier: Apache-2.0
"""`alerts`: what devices ask, and the answers."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mamplus_enterprise.cli.shared import keys_of, opened, passphrase_of, print_json, print_table, remark, who
from mamplus_enterprise.times import clock
from mamplus_host.errors import ConfigInvalid

commands = typer.Typer(help="List and answer alerts.", invoke_without_command=True)
Id = Annotated[str, typer.Argument(metavar="ID", help="The alert's id, or its number.")]
Reason = Annotated[str, typer.Option(help="Why; kept with the answer.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines.")]


@commands.callback()
def listed(
    context: typer.Context,
    as_json: AsJson = False,
    state: Annotated[str, typer.Option(help="open (waits), reported, confirmed, dismissed or all.")] = "all",
    before: Annotated[int, typer.Option(min=0, help="Only alerts numbered below this: for long lists.")] = 0,
) -> None:
    """List alerts, newest first (at most 500); or answer one."""
    if context.invoked_subcommand is not None:
        return None
    from mamplus_enterprise.alerts.listing import STATES, listing

    if state not in STATES:
        raise ConfigInvalid(f"--state is {state!r}, want one of: {', '.join(STATES)}")
    with opened(context) as (_home, store), store.reading() as session:
        rows = listing(session, state, before=before)
    if as_json:
        return print_json(rows)
    columns = ("NUMBER", "ID", "RECEIVED", "DEVICE", "FINDING", "INDICATOR", "STATE", "SUMMARY")
    return print_table(columns, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> tuple[object, ...]:
    indicator = row.get("indicator")
    value = f"{indicator['kind']} {indicator['value']}" if indicator else "-"
    return (
        row["number"], row["id"], clock(row["received_at"]), row["device_name"], row["finding"], value, row["state"],
        row["summary"],
    )  # fmt: skip


@commands.command("confirm")
def confirm(context: typer.Context, alert: Id, reason: Reason = "", as_json: AsJson = False) -> None:
    """Block the alert's indicator on every device, in a new generation."""
    _answer(context, alert, reason, confirmed=True, as_json=as_json)


@commands.command("dismiss")
def dismiss(context: typer.Context, alert: Id, reason: Reason = "", as_json: AsJson = False) -> None:
    """Allow the alert's indicator on every device, in a new generation."""
    _answer(context, alert, reason, confirmed=False, as_json=as_json)


@commands.command("import")
def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As `mamplus outbox export` wrote it.")],
    as_json: AsJson = False,
) -> None:
    """Take in alerts that came on a stick; each is checked and stored once, as from the network."""
    from mamplus_enterprise.alerts.carried import MAX_FILE_BYTES, import_file
    from mamplus_enterprise.ble.keys import load_seals

    with opened(context) as (home, store):
        try:
            with file.open("rb") as opened_file:
                data = opened_file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise ConfigInvalid(f"cannot read {str(file)!r}: {error.strerror}; want a device's export") from None
        done = import_file(store, data, load_seals(home, passphrase_of(context), keys_of(context)), who=who())
    if as_json:
        return print_json(done)
    if done.refused:
        remark(f"{done.refused} refused; the first: {done.refusal}")
    return print(f"{done.stored} alerts of {done.device} stored, {done.known} were here already")


def _answer(context: typer.Context, alert: str, reason: str, *, confirmed: bool, as_json: bool) -> None:
    from mamplus_enterprise.alerts.answer import Answer, answer
    from mamplus_enterprise.ble.keys import load_signers
    from mamplus_host.ble.layer import Layer

    with opened(context) as (home, store):
        signers = load_signers(
            home, passphrase_of(context), elsewhere=keys_of(context)
        )  # first: else nothing is stored
        given = Answer(alert=alert, confirmed=confirmed, who=who(), reason=reason)
        done = answer(home, store, signers, given)
    layer = done.layer.name.lower()
    if as_json:
        return print_json(
            {"generation": done.generation, "entry_id": done.entry_id, "alerts": done.alerts, "layer": layer}
        )
    said = "confirmed" if confirmed else "dismissed"
    where = "" if done.layer is Layer.ENTERPRISE else f" (layer {layer}: the key of ble-enterprise is not here)"
    return print(
        f"{said}: entry {done.entry_id} in generation {done.generation}{where}, {done.alerts} alert(s) answered"
    )
