# SPDX-License-Identifier: Apache-2.0
"""`ble`: write, import, publish and carry the list."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mamplus_enterprise.cli import ble_import, ble_look, ble_states
from mamplus_enterprise.cli.kinds import brief, kinds, text_of
from mamplus_enterprise.cli.shared import (
    home_of,
    keys_of,
    opened,
    passphrase_of,
    print_json,
    publish_with_bar,
    remark,
    who,
)
from mamplus_host.ble.entry import EXAMPLES, KIND_NAMES
from mamplus_host.errors import ConfigInvalid

if TYPE_CHECKING:
    pass

commands = typer.Typer(help="Write, import, publish and carry the list.", no_args_is_help=True)
Until = Annotated[str, typer.Option(metavar="DATE", help="End of validity: 2031-12-31, or a time.")]
VerdictName = Annotated[str, typer.Option(metavar="block|suspect|allow")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines.")]


@commands.command("add")
def add(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"{', '.join(KIND_NAMES)}.", autocompletion=kinds)],
    value: Annotated[str, typer.Argument(metavar="VALUE", help=f"{EXAMPLES} Of yara and sigma also @FILE.")],
    verdict: VerdictName,
    until: Until = "",
    reason: Annotated[str, typer.Option(help="For administrators.")] = "",
    message: Annotated[str, typer.Option(help="Shown to the person who carries the device.")] = "",
    severity: Annotated[str, typer.Option(metavar="informational|low|medium|high|critical")] = "high",
    confidence: Annotated[int, typer.Option(min=0, max=100, help="How sure it is.")] = 100,
    link: Annotated[str, typer.Option(help="Where more is written.")] = "",
    layer: Annotated[str, typer.Option(metavar="enterprise|emergency|feeds")] = "enterprise",
    as_json: AsJson = False,
) -> None:
    """Add an entry; it replaces an earlier one about the same value. Devices have it after `ble publish`."""
    from mamplus_enterprise.ble import author
    from mamplus_enterprise.ble.feeds.values import settled
    from mamplus_enterprise.ble.gate import Gate
    from mamplus_enterprise.ble.judge import beyond_key
    from mamplus_enterprise.ble.listing import shown
    from mamplus_enterprise.ble.never import never
    from mamplus_host.ble.entry import canonical, parse_kind
    from mamplus_host.verdicts import Verdict

    named = parse_kind(kind)
    parsed, stored = settled(named, canonical(named, text_of(named, value)))
    draft = author.Draft(
        kind=parsed, value=stored, verdict=author.parse_verdict(verdict), severity=author.parse_severity(severity),
        valid_until=author.parse_until(until, time.time()) if until else 0, source=who(), reason=reason,
        message=message, confidence=confidence, link=link, layer=author.parse_layer(layer),
    )  # fmt: skip
    if why := beyond_key(draft, draft.layer, time.time()):
        raise ConfigInvalid(why)
    with opened(context) as (home, store), store.writing() as session:
        row, replaced = author.add(session, draft, who=who())
    if draft.verdict is not Verdict.ALLOW and (refusal := Gate(never(home), None).ask(parsed, stored).refusal):
        remark(f"the gate would not take that from a feed: {refusal.reason}")
    if replaced is not None:
        remark(f"replaces entry {replaced.id}")
    if as_json:
        print_json(shown(row, time.time()) | {"replaces": replaced.id if replaced is not None else None})
    else:
        print(f"entry {row.id}: {draft.verdict.name.lower()} {parsed.name.lower()} {brief(draft.value)}")
    _not_published()


@commands.command("remove")
def remove(
    context: typer.Context, entry_id: Annotated[int, typer.Argument(metavar="ID")], as_json: AsJson = False
) -> None:
    """Take an entry off the list. Devices drop it after `ble publish`."""
    from mamplus_enterprise.ble import author
    from mamplus_enterprise.ble.listing import shown

    with opened(context) as (_home, store), store.writing() as session:
        row = author.remove(session, entry_id, who=who())
    print_json(shown(row, time.time())) if as_json else print(f"removed entry {row.id}: {brief(row.value)}")
    _not_published()


def _not_published() -> None:
    remark("not published yet; devices have it after: mamplus-enterprise ble publish")


@commands.command("publish")
def publish(
    context: typer.Context,
    allow_shrink: Annotated[bool, typer.Option("--allow-shrink", help="The list is meant to be that small.")] = False,
    why: Annotated[str, typer.Option(help="For the history.")] = "published by hand",
    layer: Annotated[
        list[str] | None, typer.Option(metavar="enterprise|emergency|feeds", help="Repeatable; else what has changed.")
    ] = None,
    force: Annotated[str, typer.Option(metavar="REASON", help="Publish what the gate refuses; kept in the log.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would be; sign and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the entries the next generation, signed; devices are told at once.

    Exit 1, and nothing is signed: an entry of yours blocks what the gate knows as good. Exit 1 as well: a layer
    was left that cannot be published as it is written.
    """
    chosen = ble_states.layers_of(layer) if layer else ()
    if dry_run:
        return ble_states.dry_run(context, chosen, as_json=as_json)
    from mamplus_enterprise.ble.imports import gate_of
    from mamplus_enterprise.ble.keys import load_signers
    from mamplus_enterprise.ble.publish import Request

    with opened(context) as (home, store):
        signers = load_signers(home, passphrase_of(context), elsewhere=keys_of(context))
        request = Request(who(), why, allow_shrink, chosen, make_gate=lambda: gate_of(home), force=force)
        done = publish_with_bar(home, store, signers, request)
    if as_json:
        print_json(asdict(done))
    else:
        print(f"published generation {done.generation} with {done.entries} entries")
        if done.left:
            remark(f"not published, for want of their keys: {', '.join(done.left)}; say --keys DIR where these are")
    for why in done.failed:
        remark(why)
    if done.failed:
        raise typer.Exit(1)
    return None


@commands.command("export")
def export(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(metavar="OUT")],
    device: Annotated[str, typer.Option(metavar="ID", help="For this device alone; else for all.")] = "",
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            help="carrier, or for other tools: nftables, ipset, hosts, rpz, stix, misp, crowdsec,"
            " crowdsec-csv, csv; OUT may be `-` then.",
        ),
    ] = "carrier",
) -> None:
    """Write the published generation to a carrier for `mamplus ble load`, as on a USB stick; or for other tools."""
    if format_name != "carrier":
        return _export_list(context, out, format_name)
    from mamplus_enterprise.ble.carrier import check_device
    from mamplus_enterprise.ble.carrier import export as export_now
    from mamplus_enterprise.ble.keys import load_signers
    from mamplus_enterprise.ble.roles import CARRIER

    home = home_of(context)
    check_device(device)
    if device:
        _want_enrolled(context, device)
    signers = load_signers(home, passphrase_of(context), (CARRIER,), keys_of(context))
    done = export_now(home, signers, out, device=device)
    return print(f"exported generation {done.generation} with {done.entries} entries to {out}")


def _want_enrolled(context: typer.Context, device: str) -> None:
    from mamplus_enterprise.errors import Unknown
    from mamplus_enterprise.storage.schema import Device

    with opened(context) as (_home, store), store.reading() as session:
        if session.get(Device, device) is None:
            raise Unknown(f"no device {device} is enrolled here; `devices --json` lists their ids")


def _export_list(context: typer.Context, out: Path, format_name: str) -> None:
    from mamplus_enterprise.ble.exports import formats

    lines = formats.format_of(format_name)
    with opened(context) as (home, store), store.reading() as session:
        about = formats.about(home, session)
        entries = formats.entries_of(session, about.number)
        formats.write(out, lines(entries, about))
    for why, count in about.left_out.most_common():
        remark(f"{count} left out: {format_name} cannot say {why}")
    left = sum(about.left_out.values())
    remark(f"exported {len(entries) - left} of {len(entries)} entries of generation {about.number} to {out}")


for part in (ble_import, ble_look, ble_states):
    part.add_to(commands)
