# SPDX-License-Identifier: Apache-2.0
"""`ble history`, `diff`, `revert` and the dry run of `publish`: generations beside each other, and back to one."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mamplus_enterprise.cli.shared import (
    keys_of,
    opened,
    passphrase_of,
    print_json,
    print_table,
    printable,
    publish_with_bar,
    remark,
    steps_bar,
    who,
)
from mamplus_enterprise.times import clock
from mamplus_host.errors import ConfigInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from mamplus_enterprise.ble.candidate import Candidate
    from mamplus_enterprise.ble.states import Difference, Reverted
    from mamplus_enterprise.home import Home
    from mamplus_host.ble.entry import Entry
    from mamplus_host.ble.layer import Layer

AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines.")]
LayerNames = Annotated[
    list[str] | None, typer.Option("--layer", metavar="enterprise|emergency|feeds", help="Repeatable; else all.")
]


def add_to(commands: typer.Typer) -> None:
    commands.command("history")(history)
    commands.command("diff")(diff)
    commands.command("revert")(revert)


def layers_of(names: list[str] | None) -> "tuple[Layer, ...]":
    """Return the layers of these names, all when there are none; ConfigInvalid lists them."""
    from mamplus_enterprise.ble.author import parse_layer
    from mamplus_host.ble.layer import Layer

    return tuple(dict.fromkeys(parse_layer(name) for name in names)) if names else tuple(Layer)


def history(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="[KIND VALUE]", help="Of one value; else of the list.")] = "",
    value: Annotated[str, typer.Argument(hidden=True)] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many generations.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the generations, newest first; or everything that was ever written about a value."""
    from mamplus_enterprise.ble import listing, states
    from mamplus_host.ble.entry import canonical, parse_kind

    if bool(kind) != bool(value):
        raise ConfigInvalid("say KIND and VALUE, or neither")
    with opened(context) as (_home, store), store.reading() as session:
        if kind:
            parsed = parse_kind(kind)
            rows = list(listing.history_of(session, parsed, canonical(parsed, value)))
        else:
            rows = states.generations(session, limit)
    if as_json:
        return print_json(rows)
    return _entries(rows) if kind else _generations(rows)


def _entries(rows: list[dict[str, Any]]) -> None:
    cells = [
        (row["id"], row["layer"], row["verdict"], clock(row["added_at"]), clock(row["removed_at"]),
         clock(row["valid_until"]), row["source"], row["reason"])
        for row in rows
    ]  # fmt: skip
    print_table(("ID", "LAYER", "VERDICT", "ADDED", "REMOVED", "UNTIL", "SOURCE", "REASON"), cells)


def _generations(rows: list[dict[str, Any]]) -> None:
    cells = [
        (row["number"], clock(row["created_at"]), row["entries"], _layers(row), row["why"]) for row in rows
    ]  # fmt: skip
    print_table(("GENERATION", "PUBLISHED", "ENTRIES", "CHANGED", "WHY"), cells)


def _layers(row: dict[str, Any]) -> str:
    changed = [name for name, one in row["layers"].items() if one["number"] == row["number"]]
    return ", ".join(changed) or ("-" if row["layers"] else "all")


def diff(
    context: typer.Context,
    earlier: Annotated[str, typer.Argument(metavar="[A]", help="A generation; else the newest.")] = "",
    later: Annotated[str, typer.Argument(metavar="[B]", help="Another; else what is written now.")] = "working",
    layer: LayerNames = None,
    limit: Annotated[int, typer.Option(min=0, help="Show at most so many a layer; 0: all.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Say what makes B out of A: entries added (+), changed (~) and removed (-)."""
    from mamplus_enterprise.ble import states

    with opened(context) as (_home, store), store.reading() as session:
        earlier, layers = earlier or str(states.newest(session)), layers_of(layer)
        with steps_bar("diff", states.steps_between(session, layers, earlier, later)) as steps:
            found = [states.difference(session, one, earlier, later, steps) for one in layers]
    if as_json:
        return print_json([_difference(one) for one in found])
    for one in found:
        _print_difference(one, limit, {})
    counts = [sum(len(getattr(one, part)) for one in found) for part in ("added", "changed", "removed")]
    remark(f"{earlier} to {later}: {counts[0]} added, {counts[1]} changed, {counts[2]} removed")
    return None


def _print_difference(one: "Difference", limit: int, answers: dict[int, str]) -> None:
    """Print what changes, entries that answer an alert first: taking one back asks its question again."""

    def note(entry: "Entry") -> str:
        return f", answers alert {answers[entry.id]}" if entry.id in answers else ""

    lines = [
        *(f"+ {_said(entry)}" for entry in one.added),
        *(f"~ {_said(entry)}, was {_opinion(was)}{note(was)}" for was, entry in one.changed),
        *(f"- {_said(entry)}{note(entry)}" for entry in one.removed),
    ]
    lines.sort(key=lambda line: ", answers alert " not in line)
    for line in lines[: limit or None]:
        print(f"{one.layer.name.lower()} {line}")
    if limit and len(lines) > limit:
        remark(f"... and {len(lines) - limit} more in layer {one.layer.name.lower()}; --limit 0 shows all")


def _difference(one: Any) -> dict[str, Any]:
    return {
        "layer": one.layer.name.lower(), "added": [_shown(entry) for entry in one.added],
        "changed": [{"was": _shown(was), "is": _shown(entry)} for was, entry in one.changed],
        "removed": [_shown(entry) for entry in one.removed],
    }  # fmt: skip


def _shown(entry: "Entry") -> dict[str, Any]:
    return {
        "id": entry.id, "kind": entry.kind.name.lower(), "value": entry.value, "verdict": entry.verdict.name.lower(),
        "severity": entry.severity.name.lower(), "confidence": entry.confidence, "valid_until": entry.valid_until,
        "source": entry.source,
    }  # fmt: skip


def _said(entry: "Entry") -> str:
    return f"{entry.kind.name.lower()} {printable(entry.value)} {_opinion(entry)}"


def _opinion(entry: "Entry") -> str:
    until = f" until {clock(entry.valid_until)}" if entry.valid_until else ""
    return f"{entry.verdict.name.lower()}{until} (entry {entry.id}, {printable(entry.source)})"


def revert(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="N", help="The generation whose state is wanted.")],
    layer: LayerNames = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change; change nothing.")] = False,
    no_publish: Annotated[bool, typer.Option("--no-publish", help="Write it, and publish later.")] = False,
    allow_shrink: Annotated[bool, typer.Option("--allow-shrink", help="The list is meant to be that small.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="With --dry-run: at most so many a layer; 0: all.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Write the list as it was in generation N, and publish that as a new generation: both, or neither."""
    from mamplus_enterprise.ble import states

    chosen = layers_of(layer)
    if not (dry_run or no_publish):
        return _reverted(context, chosen, str(number), allow_shrink=allow_shrink, as_json=as_json)
    with opened(context) as (_home, store), store.reading() if dry_run else store.writing() as session:
        done = _revert(session, chosen, str(number), really=not dry_run)
        answers = states.answered(session, [entry for one in done for entry in _gone(one.differs)])
    _print_reverted(done, as_json=as_json)
    for one in done if dry_run and not as_json else ():
        _print_difference(one.differs, limit, answers)
    if dry_run or not any(one.withdrawn or one.restored for one in done):
        return remark("nothing was changed")
    return remark("not published yet; devices have it after: mamplus-enterprise ble publish")


def _revert(session: "Session", layers: "Sequence[Layer]", number: str, *, really: bool) -> "list[Reverted]":
    from mamplus_enterprise.ble import states

    with steps_bar("revert", states.steps_between(session, layers, number, states.WORKING)) as steps:
        return [states.revert(session, one, number, who=who(), really=really, steps=steps) for one in layers]


def _served(home: "Home") -> int:
    from mamplus_enterprise.ble import repository

    return max(one.number for one in repository.layers(home).values())


def _gone(differs: "Difference") -> "list[Entry]":
    return [*differs.removed, *(was for was, _ in differs.changed)]


def _print_reverted(done: "Sequence[Reverted]", *, as_json: bool) -> None:
    if as_json:
        return print_json([
            {"layer": one.layer.name.lower(), "withdrawn": one.withdrawn, "restored": one.restored,
             "expired": one.expired}
            for one in done
        ])  # fmt: skip
    for one in done:
        print(
            f"{one.layer.name.lower()}: {one.withdrawn} withdrawn, {one.restored} restored,"
            f" {one.expired} have ended since"
        )
    return None


def _reverted(
    context: typer.Context, layers: "Sequence[Layer]", number: str, *, allow_shrink: bool, as_json: bool
) -> None:
    from mamplus_enterprise.ble import author, repository, states
    from mamplus_enterprise.ble.imports import gate_of
    from mamplus_enterprise.ble.keys import load_signers
    from mamplus_enterprise.ble.publish import Request
    from mamplus_enterprise.errors import Harmful
    from mamplus_host.ble.layer import Layer

    with opened(context) as (home, store):
        signers = load_signers(home, passphrase_of(context), elsewhere=keys_of(context))
        before = _served(home)
        with store.writing() as session:
            if Layer.ENTERPRISE in layers and not allow_shrink:
                published = repository.layers(home)[Layer.ENTERPRISE].entries
                states.check_shrinking(session, Layer.ENTERPRISE, number, published)
            done = _revert(session, layers, number, really=True)
        if not any(one.withdrawn or one.restored for one in done):
            _print_reverted(done, as_json=as_json)
            return remark("nothing was changed")
        try:
            with store.reading() as session:
                changed = tuple(layer for layer in layers if author.waiting(session, layer))
            why = f"reverts to generation {number}"
            request = Request(who(), why, True, changed, make_gate=lambda: gate_of(home))
            made = publish_with_bar(home, store, signers, request)
        except Exception as error:
            with store.writing() as session:
                if _served(home) == before:  # else devices may have it
                    states.undo(session, done, who=who(), why=str(error))
            if isinstance(error, Harmful):
                raise Harmful(f"{error}; `ble revert {number} --no-publish` writes it first") from None
            raise
    _print_reverted(done, as_json=as_json)
    return remark(f"published generation {made.generation} with {made.entries} entries")


def dry_run(context: typer.Context, layers: "Sequence[Layer]", *, as_json: bool) -> None:
    """Print what `publish` would do; exit 1 when it would want --force."""
    import msgspec

    from mamplus_enterprise.ble import imports
    from mamplus_enterprise.ble.candidate import candidate

    with opened(context) as (home, store):
        found = candidate(home, store, imports.gate_of(home), layers)
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        _candidate(found)
    if found.harmful:
        raise typer.Exit(1)


def _candidate(found: "Candidate") -> None:
    print_table(
        ("LAYER", "GENERATION", "ENTRIES", "ADDED", "CHANGED", "REMOVED", "LIST BYTES", "DELTA BYTES"),
        [
            (one.layer, one.number, one.entries, one.added, one.changed, one.removed, one.full_bytes,
             one.delta_bytes or "-")
            for one in found.layers
        ],
    )  # fmt: skip
    for hit in found.hits:
        print(f"would block {hit.kind} {printable(hit.value)} ({hit.what}): {printable(hit.why)}")
    if found.hit_count > len(found.hits):
        remark(f"... and {found.hit_count - len(found.hits)} more")
    if found.policy:
        print(f"policy: version {found.policy}")
    remark("nothing was published" if found.layers or found.policy else "nothing has changed")
    if found.harmful:
        remark("`ble publish` wants --force REASON for what the gate refuses, or `ble remove ID`")
