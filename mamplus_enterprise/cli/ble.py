# SPDX-License-Identifier: Apache-2.0
"""`ble`: write, import, publish and carry the list."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mamplus_enterprise.cli.shared import home_of, keys_of, opened, passphrase_of, print_json, print_table, remark, who
from mamplus_enterprise.times import clock
from mamplus_host.errors import ConfigInvalid

if TYPE_CHECKING:
    from mamplus_host.ble.layer import Layer

commands = typer.Typer(help="Write, import, publish and carry the list.", no_args_is_help=True)
Until = Annotated[str, typer.Option(metavar="DATE", help="End of validity: 2031-12-31, or a time.")]
VerdictName = Annotated[str, typer.Option(metavar="block|suspect|allow")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines.")]


@commands.command("add")
def add(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="sha256, ip, cidr or domain.")],
    value: Annotated[str, typer.Argument(metavar="VALUE")],
    verdict: VerdictName,
    until: Until = "",
    reason: Annotated[str, typer.Option(help="For administrators.")] = "",
    message: Annotated[str, typer.Option(help="Shown to the person who carries the device.")] = "",
    severity: Annotated[str, typer.Option(metavar="informational|low|medium|high|critical")] = "high",
) -> None:
    """Add an entry; it replaces an earlier one about the same value. Devices have it after `ble publish`."""
    from mamplus_enterprise.ble import author
    from mamplus_host.ble.entry import canonical, parse_kind

    parsed = parse_kind(kind)
    draft = author.Draft(
        kind=parsed, value=canonical(parsed, value), verdict=author.parse_verdict(verdict),
        severity=author.parse_severity(severity), valid_until=author.parse_until(until, time.time()) if until else 0,
        source=who(), reason=reason, message=message,
    )  # fmt: skip
    with opened(context) as (_home, store), store.writing() as session:
        row, replaced = author.add(session, draft, who=who())
    if replaced is not None:
        remark(f"replaces entry {replaced.id}")
    print(f"entry {row.id}: {draft.verdict.name.lower()} {parsed.name.lower()} {draft.value}")
    _not_published()


@commands.command("remove")
def remove(context: typer.Context, entry_id: Annotated[int, typer.Argument(metavar="ID")]) -> None:
    """Take an entry off the list. Devices drop it after `ble publish`."""
    from mamplus_enterprise.ble import author

    with opened(context) as (_home, store), store.writing() as session:
        row = author.remove(session, entry_id, who=who())
    print(f"removed entry {row.id}: {row.value}")
    _not_published()


def _not_published() -> None:
    remark("not published yet; devices have it after: mamplus-enterprise ble publish")


@commands.command("list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List the entries, and how many changes wait for a generation."""
    from mamplus_enterprise.ble import author, repository

    with opened(context) as (home, store), store.reading() as session:
        published = repository.current(home)
        rows = [_shown(row) for row in author.listed(session)]
        waiting = author.unpublished(session)
    if as_json:
        return print_json({"generation": published.generation, "unpublished": waiting, "entries": rows})
    columns = ("ID", "KIND", "VALUE", "VERDICT", "SEVERITY", "UNTIL", "SOURCE", "REASON")
    cells = [
        (row["id"], row["kind"], row["value"], row["verdict"], row["severity"],
         _until(row), row["source"], row["reason"])
        for row in rows
    ]  # fmt: skip
    print_table(columns, cells)
    remark(f"generation {published.generation} with {published.entries} entries is published; {waiting} changes wait")
    return None


def _shown(row: Any) -> dict[str, Any]:
    from mamplus_enterprise.ble.author import entry_of

    entry = entry_of(row)
    return {
        "id": entry.id, "kind": entry.kind.name.lower(), "value": entry.value, "verdict": entry.verdict.name.lower(),
        "severity": entry.severity.name.lower(), "confidence": entry.confidence, "valid_until": entry.valid_until,
        "expired": 0 < entry.valid_until <= time.time(), "source": entry.source, "reason": entry.reason,
        "message": entry.message, "added_at": row.added_at,
    }  # fmt: skip


def _until(row: dict[str, Any]) -> str:
    if not row["valid_until"]:
        return "-"
    return clock(row["valid_until"]) + (" expired" if row["expired"] else "")


@commands.command("publish")
def publish(
    context: typer.Context,
    allow_shrink: Annotated[bool, typer.Option("--allow-shrink", help="The list is meant to be that small.")] = False,
    why: Annotated[str, typer.Option(help="For the history.")] = "published by hand",
    layer: Annotated[
        list[str] | None, typer.Option(metavar="enterprise|emergency|feeds", help="Repeatable; else what has changed.")
    ] = None,
) -> None:
    """Make the entries the next generation, signed; devices are told at once."""
    from mamplus_enterprise.ble.keys import load_signers
    from mamplus_enterprise.ble.publish import Request
    from mamplus_enterprise.ble.publish import publish as publish_now

    with opened(context) as (home, store):
        signers = load_signers(home, passphrase_of(context), elsewhere=keys_of(context))
        done = publish_now(home, store, signers, Request(who(), why, allow_shrink, _layers(layer)))
    print(f"published generation {done.generation} with {done.entries} entries")


def _layers(names: list[str] | None) -> "tuple[Layer, ...]":
    from mamplus_host.ble.layer import Layer

    known = {layer.name.lower(): layer for layer in Layer}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ConfigInvalid(f"there is no layer {unknown[0]!r}; want one of {', '.join(known)}")
    return tuple(dict.fromkeys(known[name] for name in names or ()))


@commands.command("export")
def export(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(metavar="OUT")],
    device: Annotated[str, typer.Option(metavar="ID", help="For this device alone; else for all.")] = "",
) -> None:
    """Write the published generation to a carrier for `mamplus ble load`, as on a USB stick."""
    from mamplus_enterprise.ble.carrier import export as export_now
    from mamplus_enterprise.ble.keys import load_signers
    from mamplus_enterprise.ble.roles import CARRIER

    home = home_of(context)
    signers = load_signers(home, passphrase_of(context), (CARRIER,), keys_of(context))
    done = export_now(home, signers, out, device=device)
    print(f"exported generation {done.generation} with {done.entries} entries to {out}")
