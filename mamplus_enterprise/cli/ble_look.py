# SPDX-License-Identifier: Apache-2.0
"""`ble list`, `check` and `lint`: what is written, what it would do, and what is wrong with it."""

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import typer

from mamplus_enterprise.cli.shared import bar, opened, print_json, print_table, printable, remark
from mamplus_enterprise.times import clock

AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines.")]
_SHOWN = 1000  # rows of a table unless --limit says otherwise


def add_to(commands: typer.Typer) -> None:
    commands.command("list")(list_)
    commands.command("check")(check)
    commands.command("lint")(lint)


def list_(
    context: typer.Context,
    kind: Annotated[str, typer.Option(help="Only of this kind.")] = "",
    layer: Annotated[str, typer.Option(metavar="enterprise|emergency|feeds", help="Only of this layer.")] = "",
    source: Annotated[str, typer.Option(help="Only of this feed or person.")] = "",
    verdict: Annotated[str, typer.Option(metavar="block|suspect|allow", help="Only with this verdict.")] = "",
    match: Annotated[str, typer.Option(metavar="TEXT", help="Only values that contain TEXT.")] = "",
    expired: Annotated[
        bool | None, typer.Option("--expired/--in-force", help="Only what has ended, or has not.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all, in a table 1000.")] = 0,
    after: Annotated[int, typer.Option(metavar="ID", min=0, help="The next page: only ids above ID.")] = 0,
    as_json: AsJson = False,
) -> None:
    """List the entries, and how many changes wait for a generation."""
    from mamplus_enterprise.ble import author, listing, repository
    from mamplus_host.ble.entry import parse_kind

    wanted = listing.Wanted(
        kind=parse_kind(kind) if kind else None, layer=author.parse_layer(layer) if layer else None, source=source,
        verdict=author.parse_verdict(verdict) if verdict else None, text=match, is_expired=expired, after=after,
        limit=limit or (0 if as_json else _SHOWN),
    )  # fmt: skip
    with opened(context) as (home, store), store.reading() as session:
        published, waiting = repository.current(home), author.unpublished(session)
        rows = listing.listed(session, wanted)
        if as_json:
            return _stream({"generation": published.generation, "unpublished": waiting}, rows)
        shown = list(rows)
        more = listing.count(session, wanted) - len(shown)
    _table(shown)
    if more and shown:
        remark(f"{more} more; the next: --after {shown[-1]['id']}")
    remark(f"generation {published.generation} with {published.entries} entries is published; {waiting} changes wait")
    return None


def _stream(about: dict[str, Any], rows: "Iterator[dict[str, Any]]") -> None:
    """Print one JSON object on one line, entry by entry: a million of them need no memory."""
    sys.stdout.write(msgspec.json.encode(about).decode()[:-1] + ',"entries":[')
    for number, row in enumerate(rows):
        sys.stdout.write(("," if number else "") + msgspec.json.encode(row).decode())
    sys.stdout.write("]}\n")


def _table(rows: list[dict[str, Any]]) -> None:
    columns = ("ID", "LAYER", "KIND", "VALUE", "VERDICT", "SEVERITY", "UNTIL", "SOURCE", "REASON")
    cells = [
        (row["id"], row["layer"], row["kind"], row["value"], row["verdict"], row["severity"], _until(row),
         row["source"], row["reason"])
        for row in rows
    ]  # fmt: skip
    print_table(columns, cells)


def _until(row: dict[str, Any]) -> str:
    if not row["valid_until"]:
        return "-"
    return clock(row["valid_until"]) + (" expired" if row["expired"] else "")


def check(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="KIND")],
    value: Annotated[str, typer.Argument(metavar="VALUE")],
    as_json: AsJson = False,
) -> None:
    """Say whether devices would refuse VALUE, and by which entry: published, and as it is written now.

    Exit 0: no; 1: yes, by the published list or the written one.
    """
    from mamplus_enterprise.ble import ask
    from mamplus_enterprise.ble.gate import Gate
    from mamplus_enterprise.ble.never import never
    from mamplus_host.ble.entry import canonical, parse_kind

    parsed = parse_kind(kind)
    with opened(context) as (home, store), store.reading() as session:
        answers = {"published": ask.published(home, parsed, value), "working": ask.working(session, parsed, value)}
        guard = Gate(never(home), None).ask(parsed, canonical(parsed, value)).refusal
    is_guarded = guard is not None and guard.code == "never"
    shown = {name: _answer(one) for name, one in answers.items()}
    blocked = not is_guarded and any(one["verdict"] == "block" for one in shown.values())
    if as_json:
        print_json({"blocked": blocked, "guarded": is_guarded, **shown})
    else:
        for name, one in shown.items():
            print(f"{name}: {_sentence(one)}")
        if is_guarded and guard is not None:
            print(f"no device would refuse it: {guard.reason}")
    raise typer.Exit(int(blocked))


def _answer(answer: Any) -> dict[str, Any]:
    entry = answer.entry
    if entry is None:
        return {"verdict": answer.verdict.name.lower(), "entry": None}
    found = {
        "id": entry.id, "kind": entry.kind.name.lower(), "value": entry.value, "source": entry.source,
        "reason": entry.reason, "valid_until": entry.valid_until,
    }  # fmt: skip
    return {"verdict": answer.verdict.name.lower(), "entry": found}


def _sentence(answer: dict[str, Any]) -> str:
    entry = answer["entry"]
    if entry is None:
        return "nothing"
    about = printable(", ".join(filter(None, (entry["source"], entry["reason"]))))
    return f"{answer['verdict']} by entry {entry['id']}: {entry['kind']} {entry['value']}" + (
        f" ({about})" if about else ""
    )


def lint(
    context: typer.Context,
    soon: Annotated[int, typer.Option(metavar="DAYS", min=0, help="Report what ends within so many days.")] = 7,
    limit: Annotated[
        int | None, typer.Option(min=0, help="Show at most so many of each sort; 0: all; else 20 that harm, 3 others.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find entries that are wrong, useless or about to end.

    Exit 1: something would harm: it blocks what the gate refuses, an allow outranks it, its layer may not say it, or
    there is more of it than devices take.
    """
    from mamplus_enterprise.ble import imports
    from mamplus_enterprise.ble import lint as rules

    with (
        opened(context) as (home, store),
        store.reading() as session,
        bar("lint", rules.LOOKS * rules.written(session)) as progress,
    ):
        found = list(rules.lint(session, imports.gate_of(home), soon_s=soon * 86_400, progress=progress))
    counts = rules.counts(found)
    shown = rules.shown(found, limit)
    if as_json:
        print_json({"counts": counts, "findings": [one._asdict() for one in shown]})
    else:
        print_table(
            ("SORT", "ID", "LAYER", "KIND", "VALUE", "WHY"),
            [(one.code, one.entry_id, one.layer, one.kind, one.value, one.why) for one in shown],
        )
        remark(", ".join(f"{count} {code}" for code, count in counts.items()) or "nothing to say")
        if len(shown) < len(found):
            remark(f"{len(found) - len(shown)} are not shown; --limit 0 shows all")
    raise typer.Exit(int(any(code in rules.GRAVE for code in counts)))
