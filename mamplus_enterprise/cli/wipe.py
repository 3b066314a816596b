# SPDX-License-Identifier: Apache-2.0
"""`wipe`, `lock`: order that of one device. `orders`: what came of it. `unseal`: read what a device sealed."""

from pathlib import Path
from typing import Annotated

import typer

from mamplus_enterprise.cli.maintenance import seconds
from mamplus_enterprise.cli.shared import keys_of, opened, passphrase_of, print_json, print_table, remark, who
from mamplus_enterprise.times import clock
from mamplus_host.errors import ConfigInvalid
from mamplus_host.files import write_whole

MAX_SEALED_BYTES = 300 << 20


Name = Annotated[str, typer.Argument(metavar="DEVICE", help="Its name, or six digits of its id at least.")]
Within = Annotated[str, typer.Option(metavar="TIME", help="By when the device must get it: 30m, 2h, 30d.")]
Reason = Annotated[str, typer.Option(help="Why; for the audit log and the device.")]
Send = Annotated[bool, typer.Option("--send", help="Have the server hand it to the device; it has it at once.")]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the order here, for a stick.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines.")]
commands = typer.Typer(
    help="List the orders that the server hands out, and what came of them.", invoke_without_command=True
)


def wipe(
    context: typer.Context,
    device: Name,
    within: Within = "30d",
    reason: Reason = "",
    yes: Annotated[bool, typer.Option("--yes", help="Yes: what is in the container will be gone for good.")] = False,
    send: Send = False,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Order one device to wipe its professional container, once; printed, for `mamplus wipe ORDER` there, or sent."""
    from mamplus_host.maintenance.order import WIPE

    if not yes:
        raise ConfigInvalid(f"{device!r} would lose its professional data for good, with no way back; say --yes")
    _order(context, WIPE, device, within=within, reason=reason, send=send, out=out, as_json=as_json)


def lock(
    context: typer.Context,
    device: Name,
    within: Within = "30d",
    reason: Reason = "",
    container: Annotated[
        bool, typer.Option("--container", help="The professional container, not the screens.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Have the server order one device to lock its screens, or its professional container, once."""
    from mamplus_host.maintenance.order import CONTAINER_LOCK, LOCK

    what = CONTAINER_LOCK if container else LOCK
    _order(context, what, device, within=within, reason=reason, send=True, out=None, as_json=as_json)


def _order(
    context: typer.Context, what: str, device: str, *, within: str, reason: str, send: bool, out: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    from mamplus_enterprise.orders import Wanted, issue

    wanted = Wanted(
        what=what, device=device, within_s=seconds(within), reason=reason or "no reason given", who=who(), is_sent=send
    )
    with opened(context) as (home, store):
        issued = issue(home, store, wanted, passphrase_of(context), keys_of(context))
    if as_json:
        return print_json({"id": issued.id, "device": issued.device_id, "order": issued.text, "sent": send})
    remark(f"for {issued.device_name} ({issued.device_id[:12]}), order {issued.id}, good for {within}:")
    if out is not None:
        write_whole(out, issued.text.encode())
        print(f"written: {out}")
    if send:
        print(f"the server hands it out; what came of it: mamplus-enterprise orders (order {issued.id})")
    elif out is None:
        print(issued.text, end="")
    return None


@commands.callback()
def listed(context: typer.Context, as_json: AsJson = False) -> None:
    """List the orders that the server was given to hand out, newest first."""
    if context.invoked_subcommand is not None:
        return None
    from mamplus_enterprise.devices.orders import all_orders

    with opened(context) as (_home, store), store.reading() as session:
        rows = all_orders(session)
    if as_json:
        return print_json(rows)
    cells = [
        (
            row["id"], row["what"], row["device_name"], row["state"], clock(row["ordered_at"]),
            clock(row["answered_at"]) if row["answered_at"] else "-", row["detail"] or row["reason"],
        )
        for row in rows
    ]  # fmt: skip
    return print_table(("ORDER", "WHAT", "DEVICE", "STATE", "ORDERED", "ANSWERED", ""), cells)


@commands.command("withdraw")
def withdraw(
    context: typer.Context, order: Annotated[str, typer.Argument(metavar="ORDER", help="As `orders` names it.")]
) -> None:
    """Hand an order out no more; a device that has it already may still carry it out."""
    from mamplus_enterprise.devices.orders import withdraw as end

    with opened(context) as (_home, store):
        row = end(store, order, who=who())
    when = f"; the device has had it since {clock(row.handed_at)}" if row.handed_at else ""
    print(f"order {order} is withdrawn{when}")


def unseal(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As `mamplus evidence|quarantine export` wrote it.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new file for its content.")],
) -> None:
    """Decrypt evidence, or a file from quarantine, that a device sealed for this enterprise."""
    from mamplus_enterprise.ble.keys import load_seals
    from mamplus_host.sealed import unseal as content_of

    if out.exists():
        raise ConfigInvalid(f"{str(out)!r} is there already; name another file")
    with opened(context) as (home, _store):
        try:
            with file.open("rb") as sealed:
                data = sealed.read(MAX_SEALED_BYTES)
        except OSError as error:
            raise ConfigInvalid(f"cannot read {str(file)!r}: {error.strerror}") from None
        content = content_of(data, load_seals(home, passphrase_of(context), keys_of(context)))
    write_whole(out, content)  # for its owner alone
    print(f"{len(content)} bytes written: {out}")
