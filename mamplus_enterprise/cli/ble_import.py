# SPDX-License-Identifier: Apache-2.0
"""`ble import` and `ble feeds`: what other people know becomes entries, through the gate."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mamplus_enterprise.cli.shared import bar, opened, print_json, print_table, printable, remark, who
from mamplus_enterprise.times import clock
from mamplus_host.errors import ConfigInvalid

if TYPE_CHECKING:
    from mamplus_enterprise.ble.import_report import Report
    from mamplus_enterprise.ble.imports import Order
    from mamplus_enterprise.ble.judge import Wish

_FORMATS = (
    "auto, plain, csv, stix, misp, urlhaus, threatfox, bazaar, feodo, drop, netset, hosts, adblock, clamav, scores"
)
_URLS = ("domain", "host", "drop")


def add_to(commands: typer.Typer) -> None:
    commands.command("import")(import_)
    commands.command("feeds")(feeds)


def formats(incomplete: str) -> list[str]:
    """The formats that begin with `incomplete`, for the shell's completion."""
    names = _FORMATS.replace(" or ", ", ").split(", ")
    return [name for name in names if name.startswith(incomplete.lower())]


def import_(
    context: typer.Context,
    format_name: Annotated[str, typer.Argument(metavar="FORMAT", help=_FORMATS, autocompletion=formats)],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Text, or text in gzip or zip.")],
    kind: Annotated[str, typer.Option(help="Of all values of a plain file; else each is recognized.")] = "",
    verdict: Annotated[str, typer.Option(metavar="block|suspect|allow")] = "block",
    severity: Annotated[str, typer.Option(metavar="informational|low|medium|high|critical")] = "high",
    until: Annotated[str, typer.Option(metavar="DATE", help="End of validity: 2031-12-31, or a time.")] = "",
    ttl: Annotated[int | None, typer.Option(metavar="DAYS", min=1, max=3650, help="Validity; feeds: 30.")] = None,
    source: Annotated[str, typer.Option(help="Name of the feed; else the file's.")] = "",
    layer: Annotated[str, typer.Option(metavar="feeds|enterprise", help="Else feeds, when it fits.")] = "",
    confidence: Annotated[int | None, typer.Option(min=0, max=100, help="Of values that do not say their own.")] = None,
    min_score: Annotated[int, typer.Option(min=0, help="Of a list with scores: drop what has less.")] = 0,
    urls: Annotated[
        str, typer.Option(metavar="domain|host|drop", help="URLs: their hosts unless shared, all hosts, none.")
    ] = "domain",
    exceptions: Annotated[bool, typer.Option("--exceptions", help="AdBlock's `@@` become entries that allow.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Withdraw what the feed names no more.")] = False,
    allow_shrink: Annotated[bool, typer.Option("--allow-shrink", help="Even if that is most of it.")] = False,
    force: Annotated[
        list[str] | None,
        typer.Option(metavar="VALUE=REASON", help="Take VALUE although the gate refuses it; audited; repeatable."),
    ] = None,
    widest: Annotated[int, typer.Option(min=1, max=32, help="Shortest prefix of an IPv4 network.")] = 10,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Every dropped value, as JSON lines.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0: one a processor.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for machines.")] = False,
) -> None:  # fmt: skip
    """Add what a feed holds; say what was dropped, and why. Publishes nothing.

    Every value passes one gate: never-block set, special-use addresses, wide networks, MISP's warninglists. The same
    feed imported again renews what it still names. An entry that a person made stays as it is. Exit 1: everything
    was dropped, or the file is empty.
    """
    from mamplus_enterprise.ble import author, imports
    from mamplus_enterprise.ble.gate import Widest
    from mamplus_enterprise.ble.import_report import Report

    name, feed, forced = _format(format_name, file), _feed(source, file), _forced(force)
    wish = _wish(kind, verdict, severity, until, urls, exceptions=exceptions, forced=forced, min_score=min_score)
    order = imports.Order(
        path=file, format=name, feed=feed, who=who(), wish=wish, layer=author.parse_layer(layer) if layer else None,
        ttl_days=ttl, confidence=confidence, replace=replace, allow_shrink=allow_shrink, widest=Widest(v4=widest),
        forced=forced, jobs=jobs,
    )  # fmt: skip
    done = Report(feed=feed, format=name, layer="")
    _run(context, order, done, report)
    _print(done, as_json=as_json)
    _say_what_next(done, name, file)


def _format(asked: str, file: Path) -> str:
    """Return the name of the format; where it was recognized, say so."""
    from mamplus_enterprise.ble import imports

    name = imports.seen_format(asked, file)
    if name != asked.strip().lower():
        remark(f"{file.name} looks like {name}")
    return name


def _feed(source: str, file: Path) -> str:
    from mamplus_enterprise.ble import author, imports

    feed = source or imports.default_feed_name(file)
    author.check_text("source", feed)
    return feed


def _wish(
    kind: str, verdict: str, severity: str, until: str, urls: str, *, exceptions: bool, forced: dict[str, str],
    min_score: int,
) -> "Wish":  # fmt: skip
    """Return what was asked of every value; ConfigInvalid when some of it makes no sense."""
    from mamplus_enterprise.ble import author
    from mamplus_enterprise.ble.judge import Wish
    from mamplus_host.ble.entry import parse_kind

    if urls not in _URLS:
        raise ConfigInvalid(f"--urls is {urls!r}, want one of: {', '.join(_URLS)}")
    now_s = int(time.time())
    return Wish(
        kind=parse_kind(kind) if kind else None, verdict=author.parse_verdict(verdict),
        severity=author.parse_severity(severity), valid_until=author.parse_until(until, now_s) if until else 0,
        now_s=now_s, urls=urls, exceptions=exceptions, forced=frozenset(forced), min_score=min_score,
    )  # fmt: skip


def _say_what_next(done: "Report", name: str, file: Path) -> None:
    """Exit 1 when nothing was taken."""
    if done.is_change():
        remark("not published yet; devices have it after: mamplus-enterprise ble publish")
    elif done.is_nothing():
        _say_nothing_taken(name, file)
        raise typer.Exit(1)
    else:
        remark("nothing was changed")


def _say_nothing_taken(name: str, file: Path) -> None:
    from mamplus_enterprise.ble import imports

    other = imports.other_format(name, file)
    remark(
        f"nothing of {file.name} was taken; as {name} it makes no sense, and it looks like {other}"
        if other
        else f"nothing of {file.name} was taken"
    )


def _run(context: typer.Context, order: "Order", done: "Report", whole: Path | None) -> None:
    from mamplus_enterprise.ble import imports

    size = order.path.stat().st_size if order.path.is_file() else 0  # the import says what is wrong with it
    if whole is not None and whole.exists() and order.path.exists() and whole.samefile(order.path):
        raise ConfigInvalid(f"--report is {str(whole)!r}, the file that is imported; want another one")
    with (
        opened(context) as (home, store),
        whole.open("wb") if whole else nullcontext() as done.file,
        bar("import", size, is_bytes=True) as progress,
    ):
        imports.import_file(home, store, order, done, progress)
    done.file = None


def _forced(words: list[str] | None) -> dict[str, str]:
    from mamplus_enterprise.ble.feeds.values import canonical_values

    forced: dict[str, str] = {}
    for word in words or ():
        value, mark, reason = word[:1] + word[1:].partition("=")[0], *word[1:].partition("=")[1:]
        if not mark or not reason.strip():
            raise ConfigInvalid(f"--force is {word!r}, want VALUE=REASON: who overrules the gate says why")
        forced |= {one: reason.strip() for _, one, _ in canonical_values(value, None)}
    return forced


def _print(done: "Report", *, as_json: bool) -> None:
    if as_json:
        return print_json(done.shown())
    for code, count in done.by_interest():
        remark(f"{count} dropped: {code}")
        for one in done.examples[code]:
            remark(f"  line {one.line}: {one.text[:80]!r}: {printable(one.reason)}")
    for title, count in done.notes.most_common(5):
        remark(f"{count} taken, though known to: {title}")
    if done.kept:
        remark(f"{done.kept} stay, for another feed names them too")
    for value, refusal in done.forced:
        remark(f"forced: {value}, {refusal}")
    remark(f"feed {done.feed!r}, format {done.format}, layer {done.layer}, {_ends(done)}, {done.seconds:.1f} s")
    return print(
        f"{done.added} added, {done.renewed} renewed, {done.unchanged} unchanged, {done.withdrawn} withdrawn,"
        f" {done.dropped_count} dropped, {done.comments} comments of {done.lines} lines"
    )


def _ends(done: "Report") -> str:
    return f"valid until {clock(done.valid_until)}" if done.valid_until else "no end"


def feeds(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="JSON for machines.")] = False
) -> None:
    """List what was imported from where: when last, how much of it is on the list."""
    from mamplus_enterprise.ble import imports
    from mamplus_host.ble.layer import Layer

    with opened(context) as (_home, store), store.reading() as session:
        rows: list[dict[str, Any]] = [
            {
                "name": row.name, "format": row.format, "layer": Layer(row.layer).name.lower(), "entries": entries,
                "confidence": row.confidence, "ttl_days": row.ttl_s // imports.DAY_S, "imported_at": row.imported_at,
                "counts": row.counts,
            }
            for row, entries in imports.feeds(session)
        ]  # fmt: skip
    if as_json:
        return print_json(rows)
    cells = [
        (row["name"], row["format"], row["layer"], row["entries"], row["counts"].get("dropped_count", 0),
         f"{row['ttl_days']} d" if row["ttl_days"] else "no end", clock(row["imported_at"]))
        for row in rows
    ]  # fmt: skip
    return print_table(("FEED", "FORMAT", "LAYER", "ENTRIES", "DROPPED", "VALIDITY", "LAST IMPORT"), cells)
