# SPDX-License-Identifier: Apache-2.0
"""Feeds through the gate into the working list: what is kept, renewed, withdrawn, dropped and said."""

import gzip
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select

from mamplus_enterprise.ble import author, imports
from mamplus_enterprise.ble.gate import Gate, Widest
from mamplus_enterprise.ble.import_report import Report
from mamplus_enterprise.ble.judge import Wish
from mamplus_enterprise.ble.never import Never
from mamplus_enterprise.errors import PublishFailed
from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.schema import Audit, EntryRow
from mamplus_enterprise.storage.store import Store
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.layer import Layer
from mamplus_host.errors import ConfigInvalid
from mamplus_host.verdicts import Verdict
from tests.enterprise.company import Company

DAY_S = 86_400
Import = Callable[..., Report]


@pytest.fixture
def store(quiet: Company) -> Iterator[Store]:
    made = Store(Home.open(quiet.dir))
    yield made
    made.close()


@pytest.fixture
def take(quiet: Company, store: Store, tmp_path: Path) -> Import:
    """Import lines of a format, with a gate that knows no warninglists."""
    home = Home.open(quiet.dir)

    def run(
        lines: list[str] | bytes, format_: str = "plain", wish: dict[str, Any] | None = None, **order: Any
    ) -> Report:
        path = tmp_path / "feed.txt"
        gate = Gate(Never([("never.example", "us")]), None, order.get("widest", Widest()))
        path.write_bytes(lines if isinstance(lines, bytes) else "".join(line + "\n" for line in lines).encode())
        report = Report(feed="feed", format=format_, layer="")
        asked = imports.Order(
            path=path, format=format_, who="test", gate=gate, wish=Wish(now_s=int(time.time()), **(wish or {})),
            **{"feed": "feed"} | order,
        )  # fmt: skip
        imports.import_file(home, store, asked, report, lambda _bytes: None)
        return report

    return run


def entries(store: Store, layer: Layer = Layer.FEEDS) -> dict[str, Entry]:
    with store.reading() as session:
        return {entry.value: entry for entry in author.state_at(session, layer, time.time())}


def decide(store: Store, value: str, verdict: Verdict, layer: Layer = Layer.ENTERPRISE) -> int:
    with store.writing() as session:
        draft = author.Draft(kind=Kind.DOMAIN, value=value, verdict=verdict, layer=layer)
        return author.add(session, draft, who="test")[0].id


def age(store: Store, days: float) -> None:
    """Make every entry as if it had been imported `days` ago."""
    with store.writing() as session:
        for row in session.scalars(select(EntryRow)):
            row.added_at -= days * DAY_S
            row.valid_until -= int(days * DAY_S)


def test_a_feed_goes_to_its_layer_with_an_end_a_source_and_a_confidence(take: Import, store: Store) -> None:
    report = take(["bad.example", "45.66.7.1"], confidence=60)

    first = entries(store)["bad.example"]
    assert (report.added, report.layer) == (2, "feeds")
    assert (first.source, first.confidence) == ("feed", 60)
    assert 29 * DAY_S < first.valid_until - time.time() <= 30 * DAY_S


def test_every_value_is_kept_or_counted_with_its_reason(take: Import, store: Store) -> None:
    decided = decide(store, "ours.example", Verdict.ALLOW)
    lines = [
        "# comment", "", "bad.example", "BAD.example.", "ours.example", "never.example", "10.0.0.1", "127.0.0.1",
        "no domain", "45.66.0.0/9", "45.66.7.0-45.66.7.3", "http://host.example/x",
    ]  # fmt: skip

    report = take(lines)

    assert report.reasons == {
        "malformed": 1, "duplicate": 1, "decided": 1, "never": 1, "private": 1, "bogon": 1, "wide": 1,
    }  # fmt: skip
    assert (report.lines, report.comments, report.added, report.dropped_count) == (12, 2, 3, 7)
    assert set(entries(store)) == {"bad.example", "45.66.7.0/30", "host.example"}
    reasons = {one.line or one.text: one.reason for one in report.dropped}
    assert f"entry {decided} says allow" in reasons[5]
    assert "earlier line says block" in reasons[4]


def test_crlf_a_byte_order_mark_utf16_and_gzip_change_nothing(take: Import, store: Store) -> None:
    text = "﻿bad.example # why\r\nBücher.example\r\n"

    assert take(text.encode()).added == 2
    assert take(text.encode("utf-16")).unchanged == 2
    assert take(gzip.compress(text.encode())).unchanged == 2
    assert set(entries(store)) == {"bad.example", "xn--bcher-kva.example"}


def test_the_same_feed_again_renews_only_what_is_past_half_of_its_time(take: Import, store: Store) -> None:
    take(["bad.example"])
    first = entries(store)["bad.example"]
    at_once = take(["bad.example", "more.example"])
    age(store, 16)
    later = take(["bad.example", "more.example"])

    assert (at_once.added, at_once.unchanged, at_once.renewed) == (1, 1, 0)
    assert (later.added, later.unchanged, later.renewed) == (0, 0, 2)
    second = entries(store)["bad.example"]
    assert second.id > first.id
    assert second.valid_until >= first.valid_until


def test_an_expired_entry_comes_back_with_its_feed(take: Import, store: Store) -> None:
    take(["bad.example"])
    age(store, 31)
    assert entries(store) == {}

    assert take(["bad.example"]).renewed == 1
    assert set(entries(store)) == {"bad.example"}


def test_another_verdict_or_confidence_of_the_same_feed_replaces_the_earlier(take: Import, store: Store) -> None:
    take(["bad.example"], wish={"verdict": Verdict.SUSPECT})
    report = take(["bad.example"], confidence=20)

    entry = entries(store)["bad.example"]
    assert (report.renewed, entry.verdict, entry.confidence) == (1, Verdict.BLOCK, 20)


def test_replace_withdraws_what_the_feed_names_no_more_and_nothing_else(take: Import, store: Store) -> None:
    take(["one.example", "two.example", "three.example"])
    decide(store, "mine.example", Verdict.BLOCK, Layer.FEEDS)

    without = take(["two.example", "three.example"])
    report = take(["two.example", "three.example"], replace=True)

    assert (without.withdrawn, report.withdrawn) == (0, 1)
    assert set(entries(store)) == {"two.example", "three.example", "mine.example"}


def test_what_two_feeds_name_stays_until_neither_does(take: Import, store: Store) -> None:
    first = [f"own{number}.example" for number in range(3)]
    take(["both.example", *first], feed="one")
    take(["both.example"], feed="two", confidence=40)

    left = take(first, feed="one", replace=True)
    kept = entries(store)["both.example"]
    gone = take(["else.example"], feed="two", replace=True, allow_shrink=True)

    assert (left.withdrawn, left.kept, gone.withdrawn, gone.kept) == (0, 1, 1, 0)
    assert (kept.source, kept.confidence) == ("two", 40)
    assert set(entries(store)) == {*first, "else.example"}


def test_no_statement_of_an_import_reads_a_table_once_for_each_row(take: Import, store: Store) -> None:
    """Else two large feeds that name the same hold the list's lock for hours."""
    slow = []

    def explain(connection: Any, _cursor: Any, statement: str, values: Any, _context: Any, is_many: bool) -> None:
        if is_many or not statement.startswith(("INSERT", "UPDATE", "DELETE")):
            return
        raw = connection.connection.cursor()
        plan = {row[0]: row for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", values)}
        for _id, parent, _unused, what in plan.values():
            if what.startswith("SCAN") and "CORRELATED" in plan.get(parent, ("", "", "", ""))[3]:
                slow.append((what, statement))

    take(["one.example", "both.example"], feed="one")
    take(["both.example"], feed="two")
    event.listen(store.engine, "before_cursor_execute", explain)
    try:
        report = take(["else.example"], feed="one", replace=True, allow_shrink=True)
    finally:
        event.remove(store.engine, "before_cursor_execute", explain)

    assert (report.withdrawn, report.kept) == (1, 1)
    assert slow == []


def test_a_feed_that_gave_a_value_up_gets_it_from_nobody(take: Import, store: Store) -> None:
    take(["both.example"], feed="one")
    take(["both.example", "a.example"], feed="two")
    take(["a.example"], feed="two", replace=True)

    take(["b.example"], feed="one", replace=True, allow_shrink=True)

    assert set(entries(store)) == {"a.example", "b.example"}


def test_another_feed_gives_an_entry_more_time_and_no_other_name(take: Import, store: Store) -> None:
    take(["both.example"], feed="one", confidence=70)
    age(store, 20)

    report = take(["both.example"], feed="two", confidence=40)

    entry = entries(store)["both.example"]
    assert (report.renewed, entry.source, entry.confidence) == (1, "one", 70)
    assert entry.valid_until > time.time() + 29 * DAY_S


def test_a_feed_that_says_more_has_the_entry_and_the_other_gets_it_back(take: Import, store: Store) -> None:
    take(["both.example"], feed="one", wish={"verdict": Verdict.SUSPECT})
    take(["both.example"], feed="two")
    more = entries(store)["both.example"]

    take(["else.example"], feed="two", replace=True, allow_shrink=True)

    less = entries(store)["both.example"]
    assert [(one.source, one.verdict) for one in (more, less)] == [("two", Verdict.BLOCK), ("one", Verdict.SUSPECT)]


def test_a_feed_that_lost_most_of_itself_withdraws_nothing_unasked(take: Import, store: Store) -> None:
    take([f"bad{number}.example" for number in range(5)])

    with pytest.raises(PublishFailed, match="3 of 5"):
        take(["bad0.example", "bad1.example"], replace=True)

    assert len(entries(store)) == 5
    assert take(["bad0.example", "bad1.example"], replace=True, allow_shrink=True).withdrawn == 3


def test_what_does_not_fit_the_layer_of_feeds_is_dropped_and_said(take: Import) -> None:
    report = take(
        ["kind,value,verdict", "domain,bad.example,allow", f"tls,{'ab' * 32},block"], "csv", layer=Layer.FEEDS
    )
    assert report.reasons == {"layer": 2}


def test_what_a_layer_could_not_publish_is_not_taken(take: Import, store: Store) -> None:
    """A single such entry would keep the whole layer from being published."""
    endless = {"pattern": "[domain-name:value = 'bad.example']", "valid_until": "9999-12-31T00:00:00Z"}
    bundle = {"type": "bundle", "objects": [{"type": "indicator"} | endless]}

    wide = take(["45.0.0.0/7"], widest=Widest(v4=1))
    take([json.dumps(bundle)], "stix")
    with_end = entries(store)["bad.example"].valid_until
    take([json.dumps(bundle).replace("bad", "worse")], "stix", layer=Layer.ENTERPRISE, feed="other")

    assert wide.reasons == {"wide": 1}
    assert 89 * DAY_S < with_end - time.time() <= 90 * DAY_S
    assert entries(store, Layer.ENTERPRISE)["worse.example"].valid_until == 0


def test_our_own_csv_goes_to_the_layer_of_administrators_without_an_end(take: Import, store: Store) -> None:
    until = int(time.time()) + 5 * DAY_S
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(until))

    take(["kind,value,verdict,valid_until", "domain,bad.example,allow,", f"ip,45.66.7.1,block,{stamp}"], "csv")

    kept = entries(store, Layer.ENTERPRISE)
    assert (kept["bad.example"].verdict, kept["bad.example"].valid_until) == (Verdict.ALLOW, 0)
    assert kept["45.66.7.1"].valid_until == until


def test_a_csv_is_read_by_the_names_of_its_columns_wherever_and_however_they_stand(take: Import, store: Store) -> None:
    lines = ["# ours", '"Valid_Until", "value", "kind"', "2040-12-31, bad.example, domain"]

    take(lines, "csv")

    (entry,) = entries(store, Layer.ENTERPRISE).values()
    assert (entry.value, entry.valid_until) == ("bad.example", 2240611200)  # the end of that day, as --until says it


def test_a_csv_whose_end_is_not_understood_makes_no_entry_for_ever(take: Import, store: Store) -> None:
    lines = ["kind,value,verdict,valid_until,confidence"]
    lines += [f"domain,{n}.example,allow,{end}" for n, end in enumerate(["31.12.2040,", "2040-13-01,", ",300", ",x"])]

    report = take(lines, "csv")
    with pytest.raises(ConfigInvalid, match=r"names a column 'until'; want some of: kind, value, .*valid_until"):
        take(["kind,value,verdict,until", "domain,bad.example,allow,2040-12-31"], "csv")

    assert report.reasons == {"malformed": 4}
    assert entries(store, Layer.ENTERPRISE) == {}


def test_a_value_that_is_no_utf8_is_dropped_and_not_stored_as_another(take: Import, store: Store) -> None:
    report = take("kind,value,verdict,reason\npath,/opt/b\xe4r,,\npath,/opt/bar,,gr\xfcn\n".encode("latin-1"), "csv")

    assert report.reasons == {"malformed": 1}
    assert set(entries(store, Layer.ENTERPRISE)) == {"/opt/bar"}


def test_wildcards_of_lists_of_names_are_names_with_their_sub_domains(take: Import, store: Store) -> None:
    take(["*.bad.example", ".worse.example"])

    assert set(entries(store)) == {"bad.example", "worse.example"}


def test_what_ble_add_refuses_an_import_drops(take: Import, store: Store) -> None:
    report = take(["kind,value", "user,root", "user,mallory", "sigma,no rule", "path,/opt/bad/**"], "csv")

    assert report.reasons == {"never": 1, "malformed": 1}
    assert set(entries(store, Layer.ENTERPRISE)) == {"mallory", "/opt/bad/**"}


def test_an_exception_takes_a_name_out_and_allows_only_when_asked(take: Import, store: Store) -> None:
    lines = ["||bad.example^", "||fine.example^", "@@||fine.example^"]

    report = take(lines, "adblock")
    assert set(entries(store)) == {"bad.example"}
    assert report.reasons["excepted"] == 2


def test_exceptions_become_entries_that_allow_when_an_administrator_asks(take: Import, store: Store) -> None:
    take(["||bad.example^", "@@||fine.bad.example^"], "adblock", wish={"exceptions": True}, layer=Layer.ENTERPRISE)

    verdicts = {value: entry.verdict for value, entry in entries(store, Layer.ENTERPRISE).items()}
    assert verdicts == {"bad.example": Verdict.BLOCK, "fine.bad.example": Verdict.ALLOW}


def test_a_failed_import_changes_nothing(take: Import, store: Store) -> None:
    with pytest.raises(ConfigInvalid, match="STIX"):
        take(["{}"], "stix")

    with store.reading() as session:
        assert imports.feeds(session) == []


def test_several_processes_give_the_answer_of_one_in_order(take: Import) -> None:
    lines = [f"45.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(60_000)]

    report = take([*lines, *lines[:10], "10.0.0.1"], jobs=2)

    assert (report.added, report.lines) == (60_000, 60_011)
    assert report.reasons == {"duplicate": 10, "private": 1}
    assert [one.line for one in report.dropped if one.code == "duplicate"] == list(range(60_001, 60_011))


def test_a_validity_that_the_layer_of_feeds_cannot_hold_is_refused(take: Import, store: Store) -> None:
    with pytest.raises(ConfigInvalid, match=r"400 days, want at most 90 in layer feeds; .*--layer enterprise"):
        take(["bad.example"], ttl_days=400)
    with pytest.raises(ConfigInvalid, match="more than 90 days away"):
        take(["bad.example"], layer=Layer.FEEDS, wish={"valid_until": int(time.time()) + 400 * DAY_S})

    assert entries(store) == {}
    assert take(["bad.example"], ttl_days=400, layer=Layer.ENTERPRISE).added == 1
    assert take(["bad.example"], feed="other", ttl_days=90).dropped[0].code == "decided"


def test_the_most_telling_drops_come_first(take: Import) -> None:
    lines = ["45.66.7.1 1", "45.66.7.2 1", "45.66.7.3 9", "10.0.0.1 9", "never.example 9"]

    report = take(lines, "scores", wish={"min_score": 3})

    assert report.by_interest() == [("never", 1), ("private", 1), ("score", 2)]


def test_an_import_that_took_nothing_is_exit_1_and_says_what_the_file_looks_like(
    quiet: Company, tmp_path: Path
) -> None:
    scores, fine = tmp_path / "scores.txt", tmp_path / "fine.txt"
    scores.write_text("45.66.7.1\t5\n45.66.7.2\t5\n")
    fine.write_text("bad.example\n")

    wrong = quiet.attempt("ble", "import", "plain", scores)
    first, again = (quiet.attempt("ble", "import", "plain", fine) for _ in range(2))

    assert (wrong.returncode, "looks like scores" in wrong.stderr) == (1, True), wrong.stderr
    assert (first.returncode, "not published yet" in first.stderr) == (0, True)
    assert (again.returncode, "nothing was changed" in again.stderr) == (0, True)
    assert "not published yet" not in wrong.stderr + again.stderr


def test_an_import_of_nothing_is_exit_1(quiet: Company, tmp_path: Path) -> None:
    """A download that failed leaves an empty file, and a cron job has to hear of it."""
    empty, bundle = tmp_path / "empty", tmp_path / "bundle.json"
    empty.touch()
    bundle.write_text('{"type": "bundle", "objects": [{"type": "indicator"}]}')

    assert quiet.attempt("ble", "import", "auto", empty).returncode == 1
    other = quiet.attempt("ble", "import", "misp", bundle)

    assert (other.returncode, "looks like stix" in other.stderr) == (1, True)


def test_a_report_does_not_overwrite_what_is_imported(quiet: Company, tmp_path: Path) -> None:
    feed, link = tmp_path / "feed.txt", tmp_path / "link"
    feed.write_text("bad.example\n")
    link.symlink_to(feed)

    done = quiet.attempt("ble", "import", "plain", feed, "--report", link)

    assert (done.returncode, feed.read_text()) == (2, "bad.example\n")


def test_the_command_line_says_what_it_dropped_and_who_overruled_the_gate(quiet: Company, tmp_path: Path) -> None:
    feed, whole = tmp_path / "feed.txt", tmp_path / "dropped.jsonl"
    feed.write_text("8.8.8.8\n9.9.9.9\n192.168.1.1\nbad.example\n")

    done = quiet.attempt(
        "ble", "import", "auto", feed, "--source", "mine", "--force", "9.9.9.9=decision 12", "--report", whole
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 added, 0 renewed, 0 unchanged, 0 withdrawn, 2 dropped")
    assert "looks like netset" in done.stderr or "looks like plain" in done.stderr
    assert "1 dropped: known" in done.stderr
    assert "forced: 9.9.9.9" in done.stderr
    assert {json.loads(line)["code"] for line in whole.read_text().splitlines()} == {"known", "private"}
    (row,) = quiet.json("ble", "feeds")
    assert (row["name"], row["entries"], row["counts"]["dropped_count"]) == ("mine", 2, 2)
    store = Store(Home.open(quiet.dir))
    with store.reading() as session:
        (line,) = session.scalars(select(Audit).where(Audit.what == "gate overruled"))
        assert (line.subject, line.detail.startswith("decision 12; the gate: known good")) == ("9.9.9.9", True)
    store.close()


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense", "x"),
        ("plain", "missing.txt"),
        ("plain", "x", "--urls", "maybe"),
        ("plain", "x", "--force", "8.8.8.8"),
    ],
    ids=lambda words: words[-1],
)
def test_wrong_usage_of_import_is_exit_2(quiet: Company, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "x").write_text("bad.example\n")

    done = quiet.attempt("ble", "import", words[0], tmp_path / words[1], *words[2:])

    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (2, "", False)
