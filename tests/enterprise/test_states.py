# SPDX-License-Identifier: Apache-2.0
"""Generations beside each other, the way back to one, and the next before it is one."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mamplus_enterprise.ble import ask, author, candidate, states
from mamplus_enterprise.ble.gate import Gate
from mamplus_enterprise.ble.never import Never
from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.store import Store
from mamplus_host.ble.entry import Entry, Kind, canonical, parse_kind
from mamplus_host.ble.layer import Layer
from mamplus_host.verdicts import Verdict
from tests.enterprise.company import Company

SOON = 30 * 86_400


def write(
    store: Store,
    kind: Kind,
    value: str,
    verdict: Verdict = Verdict.BLOCK,
    layer: Layer = Layer.ENTERPRISE,
    until: int = 0,
) -> int:
    with store.writing() as session:
        draft = author.Draft(
            kind=kind, value=canonical(kind, value), verdict=verdict, layer=layer, valid_until=until, source="test"
        )  # fmt: skip
        return author.add(session, draft, who="test")[0].id


def opinions(store: Store, layer: Layer = Layer.ENTERPRISE) -> dict[str, tuple[Verdict, int]]:
    with store.reading() as session:
        return {one.value: (one.verdict, one.valid_until) for one in author.state_at(session, layer, time.time())}


def values(entries: list[Entry]) -> list[str]:
    return [entry.value for entry in entries]


def test_a_difference_names_what_was_added_changed_and_removed_both_ways(quiet: Company, store: Store) -> None:
    for value in ("kept.example", "changed.example", "gone.example"):
        write(store, Kind.DOMAIN, value)
    quiet.run("ble", "publish")
    gone = opinions(store)
    assert len(gone) == 3
    write(store, Kind.DOMAIN, "changed.example", Verdict.SUSPECT)
    write(store, Kind.DOMAIN, "new.example")
    with store.writing() as session:
        author.remove(session, 3, who="test")

    with store.reading() as session:
        forth = states.difference(session, Layer.ENTERPRISE, "2", "working")
        back = states.difference(session, Layer.ENTERPRISE, "working", "2")
        first = states.difference(session, Layer.ENTERPRISE, "1", "2")

    assert (values(forth.added), values(forth.removed)) == (["new.example"], ["gone.example"])
    assert [(was.verdict, now.verdict) for was, now in forth.changed] == [(Verdict.BLOCK, Verdict.SUSPECT)]
    assert (values(back.added), values(back.removed)) == (["gone.example"], ["new.example"])
    assert (len(first.added), len(first)) == (3, 3)


def test_a_revert_brings_the_state_of_a_generation_back_as_a_new_one(quiet: Company, store: Store) -> None:
    write(store, Kind.DOMAIN, "kept.example")
    write(store, Kind.DOMAIN, "changed.example")
    write(store, Kind.IP, "45.66.7.1", layer=Layer.FEEDS, until=int(time.time()) + SOON)
    quiet.run("ble", "publish")
    (generation, *_) = quiet.json("ble", "history")
    before = {layer: opinions(store, layer) for layer in Layer}
    write(store, Kind.DOMAIN, "changed.example", Verdict.ALLOW)
    write(store, Kind.DOMAIN, "new.example")
    with store.writing() as session:
        author.remove(session, 3, who="test")
    quiet.run("ble", "publish")

    tried = quiet.run("ble", "revert", str(generation["number"]), "--dry-run")
    untouched = opinions(store)
    quiet.run("ble", "revert", str(generation["number"]))

    assert "enterprise: 2 withdrawn, 1 restored" in tried
    assert untouched["changed.example"][0] is Verdict.ALLOW
    assert {layer: opinions(store, layer) for layer in Layer} == before
    newest = quiet.json("ble", "history")[0]
    assert newest["number"] > generation["number"]
    assert newest["why"] == f"reverts to generation {generation['number']}"


def test_a_revert_leaves_what_has_ended_since_away_and_survives_what_ended_in_its_place(
    quiet: Company, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    write(store, Kind.DOMAIN, "short.example", until=int(now) + 100)
    write(store, Kind.DOMAIN, "long.example")
    quiet.run("ble", "publish")
    write(store, Kind.DOMAIN, "long.example", Verdict.SUSPECT, until=int(now) + 100)
    monkeypatch.setattr("time.time", lambda: now + 1000)

    with store.writing() as session:
        done = states.revert(session, Layer.ENTERPRISE, "2", who="test", really=True)

    assert (done.restored, done.expired) == (1, 1)
    assert opinions(store) == {"long.example": (Verdict.BLOCK, 0)}


def test_a_revert_that_cannot_be_published_changes_nothing(quiet: Company, store: Store) -> None:
    quiet.run("ble", "publish")
    empty = quiet.json("ble", "history")[0]["number"]
    for number in range(4):
        write(store, Kind.DOMAIN, f"bad{number}.example")
    quiet.run("ble", "publish")
    before, small = opinions(store), quiet.attempt("ble", "revert", str(empty))

    assert (small.returncode, f"ble revert {empty} --allow-shrink" in small.stderr) == (1, True), small.stderr
    assert "ble publish --allow-shrink" not in small.stderr
    (quiet.dir / "keys" / "away").mkdir()
    for key in (quiet.dir / "keys").glob("ble-enterprise*"):
        key.rename(quiet.dir / "keys" / "away" / key.name)
    keyless = quiet.attempt("ble", "revert", str(empty), "--allow-shrink")

    assert (keyless.returncode, opinions(store)) == (1, before), keyless.stderr
    assert quiet.run("ble", "diff") == ""


def test_a_second_revert_to_the_same_generation_has_nothing_to_do(quiet: Company, store: Store) -> None:
    for value in ("one.example", "two.example"):
        write(store, Kind.DOMAIN, value)
    quiet.run("ble", "publish")
    number = quiet.json("ble", "history")[0]["number"]
    with store.writing() as session:
        author.remove(session, 1, who="test")
    quiet.run("ble", "publish")
    quiet.run("ble", "revert", str(number))
    ids = quiet.json("ble", "list")

    again = quiet.attempt("ble", "revert", str(number))

    assert "enterprise: 0 withdrawn, 0 restored" in again.stdout
    assert "nothing was changed" in again.stderr
    assert quiet.json("ble", "list") == ids


def test_the_dry_run_of_a_revert_lists_entries_and_the_alerts_that_they_answer(company: Company) -> None:
    company.run("ble", "publish")
    number = company.json("ble", "history")[0]["number"]
    company.run("ble", "add", "domain", "other.example", "--verdict", "block")
    alert = company.device().sent(indicator={"kind": "domain", "value": "tool.example"})
    company.run("alerts", "dismiss", alert)

    lines = company.run("ble", "revert", str(number), "--dry-run").splitlines()

    assert any(line.startswith("enterprise - domain tool.example allow") and alert in line for line in lines), lines
    assert any(line.startswith("enterprise - domain other.example block") for line in lines), lines


def test_a_generation_that_never_was_is_an_error(quiet: Company) -> None:
    for words in (("diff", "9"), ("revert", "9"), ("diff", "first")):
        done = quiet.attempt("ble", *words)
        assert (done.returncode, "ble history" in done.stderr) == (1, True), done.stderr


def test_a_dry_run_says_what_publishing_would_do_and_does_nothing(company: Company) -> None:
    device = company.device()
    dismissed = device.sent(indicator={"kind": "domain", "value": "tool.example"})
    company.run("alerts", "dismiss", dismissed)
    company.run("ble", "remove", "1")
    company.run("ble", "publish", "--allow-shrink")
    company.run("ble", "add", "domain", "tool.example", "--verdict", "block")
    company.run("ble", "add", "ip", "8.8.8.8", "--verdict", "block", "--layer", "emergency")
    before = company.json("ble", "history")

    done = company.attempt("ble", "publish", "--dry-run", "--json")
    plan = json.loads(done.stdout)

    assert (done.returncode, plan["harmful"]) == (1, 1)
    assert company.json("ble", "history") == before
    assert [(one["layer"], one["added"], one["full_bytes"] > 0) for one in plan["layers"]] == [
        ("enterprise", 1, True), ("emergency", 1, True),
    ]  # fmt: skip
    assert {(one["what"], one["value"]) for one in plan["hits"]} == {
        ("dismissed alert", "tool.example"), ("gate", "8.8.8.8"),
    }  # fmt: skip
    assert "would block domain tool.example (dismissed alert)" in company.attempt("ble", "publish", "--dry-run").stdout


@pytest.mark.parametrize("entry", [("cidr", "0.0.0.0/0"), ("domain", "mam.example"), ("domain", "portal.example")])
def test_what_the_gate_refuses_is_published_only_by_force(tmp_path: Path, entry: tuple[str, str]) -> None:
    company = Company(tmp_path / "enterprise")
    company.run("init", company.dir, "--dev", "--url", "https://mam.example:8443")
    (company.dir / "never-block.txt").write_text("portal.example\n")
    company.run("ble", "add", *entry, "--verdict", "block")

    refused = company.attempt("ble", "publish")
    tried = company.attempt("ble", "publish", "--dry-run")
    before = company.json("ble", "history")
    forced = company.run("ble", "publish", "--force", "an exercise")

    assert (refused.returncode, tried.returncode, len(before)) == (1, 1, 1)
    assert entry[1] in refused.stderr
    assert "--force REASON" in refused.stderr
    assert forced.startswith("published generation 2 with 1 entries")


def test_what_a_person_puts_beside_the_feeds_is_asked_like_the_rest(tmp_path: Path) -> None:
    company = Company(tmp_path / "enterprise")
    company.run("init", company.dir, "--dev", "--url", "https://mam.example:8443")
    until = (datetime.now(UTC) + timedelta(days=10)).strftime("%Y-%m-%d")
    company.run("ble", "add", "domain", "mam.example", "--verdict", "block", "--layer", "feeds", "--until", until)

    refused = company.attempt("ble", "publish")

    assert (refused.returncode, "mam.example is never to be blocked" in refused.stderr) == (1, True)


def test_a_revert_that_would_block_the_enterprise_changes_nothing(quiet: Company, store: Store) -> None:
    quiet.run("ble", "add", "domain", "portal.example", "--verdict", "block")
    quiet.run("ble", "publish")
    quiet.run("ble", "add", "domain", "other.example", "--verdict", "block")
    number = next(row["id"] for row in quiet.json("ble", "list")["entries"] if row["value"] == "portal.example")
    quiet.run("ble", "remove", str(number))
    quiet.run("ble", "publish")
    (quiet.dir / "never-block.txt").write_text("portal.example\n")
    before = opinions(store)

    refused = quiet.attempt("ble", "revert", "2")

    assert (refused.returncode, "portal.example is never to be blocked" in refused.stderr) == (1, True)
    assert opinions(store) == before


def test_a_person_may_block_an_address_of_ones_own_network(quiet: Company) -> None:
    quiet.run("ble", "add", "ip", "192.168.7.8", "--verdict", "block")

    assert quiet.run("ble", "publish").startswith("published generation 2 ")


def test_a_dry_run_sees_a_policy_that_waits(quiet: Company, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"dead_man_s": 60}')
    quiet.run("policy", "set", tmp_path / "p.json")

    waits = quiet.json("ble", "publish", "--dry-run")["policy"]
    said = quiet.attempt("ble", "publish", "--dry-run")
    quiet.run("ble", "publish")

    assert (waits, quiet.json("ble", "publish", "--dry-run")["policy"]) == (1, 0)
    assert "policy: version 1" in said.stdout
    assert "nothing has changed" not in said.stderr


def test_a_candidate_of_one_layer_leaves_the_others_alone(quiet: Company, store: Store) -> None:
    write(store, Kind.DOMAIN, "bad.example")
    write(store, Kind.IP, "45.66.7.1", layer=Layer.EMERGENCY)

    found = candidate.candidate(Home.open(quiet.dir), store, Gate(Never(), None), [Layer.EMERGENCY])

    assert [one.layer for one in found.layers] == ["emergency"]
    assert not list((quiet.dir / "repository").rglob("*.new"))


@pytest.mark.parametrize(
    ("entry", "asked", "blocked"),
    [
        (("domain", "bad.example"), ("domain", "A.bad.example."), True),
        (("domain", "=bad.example"), ("domain", "a.bad.example"), False),
        (("cidr", "45.66.0.0/16"), ("ip", "45.66.7.1:443"), True),
        (("ip", "45.66.7.1:443/tcp"), ("ip", "45.66.7.1"), False),
        (("ip", "45.66.7.1:443"), ("ip", "45.66.7.1:443/tcp"), True),
        (("cidr", "[2a00::/32]:53"), ("ip", "[2a00::1]:53/udp"), True),
        (("port", "443"), ("ip", "45.66.7.1:443"), True),
        (("cidr", "45.66.0.0/16"), ("cidr", "45.66.7.0/24"), True),
    ],
)
def test_check_asks_the_written_list_as_a_device_would(
    store: Store, entry: tuple[str, str], asked: tuple[str, str], blocked: bool
) -> None:
    write(store, parse_kind(entry[0]), entry[1])

    with store.reading() as session:
        answer = ask.working(session, parse_kind(asked[0]), asked[1])

    assert answer.verdict is (Verdict.BLOCK if blocked else Verdict.NOTHING)


def test_check_tells_what_is_published_from_what_is_written(quiet: Company) -> None:
    quiet.run("ble", "add", "domain", "bad.example", "--verdict", "block")

    written = quiet.attempt("ble", "check", "domain", "a.bad.example", "--json")
    quiet.run("ble", "publish")
    served = quiet.attempt("ble", "check", "domain", "a.bad.example", "--json")

    said = [
        [json.loads(done.stdout)[name]["verdict"] for name in ("published", "working")] for done in (written, served)
    ]
    assert said == [["nothing", "block"], ["block", "block"]]
    assert (written.returncode, served.returncode) == (1, 1)


def test_the_enterprises_own_name_is_never_said_to_be_blocked(tmp_path: Path) -> None:
    company = Company(tmp_path / "enterprise")
    company.run("init", company.dir, "--dev", "--url", "https://mam.example:8443")
    added = company.attempt("ble", "add", "domain", "mam.example", "--verdict", "block")

    done = company.attempt("ble", "check", "domain", "mam.example")

    assert "never to be blocked" in added.stderr
    assert (done.returncode, "no device would refuse it" in done.stdout) == (0, True)


def test_the_list_is_filtered_and_read_in_pages(quiet: Company, store: Store) -> None:
    for number in range(5):
        write(store, Kind.DOMAIN, f"bad{number}.example")
    write(store, Kind.IP, "45.66.7.1", layer=Layer.EMERGENCY)

    def ids(*words: str) -> list[int]:
        return [one["id"] for one in quiet.json("ble", "list", *words)["entries"]]

    assert ids("--kind", "ip") == ids("--layer", "emergency") == [6]
    assert ids("--limit", "2", "--after", "2") == [3, 4]
    assert ids("--match", "bad4") == [5]
    assert ids("--source", "test", "--verdict", "allow") == ids("--expired") == []
    page = quiet.attempt("ble", "list", "--limit", "2")
    assert "4 more; the next: --after 2" in page.stderr


def test_the_history_of_a_value_is_everything_that_was_written_about_it(quiet: Company) -> None:
    quiet.run("ble", "add", "domain", "bad.example", "--verdict", "suspect")
    quiet.run("ble", "add", "domain", "bad.example", "--verdict", "block")
    quiet.run("ble", "remove", "2")

    rows = quiet.json("ble", "history", "domain", "BAD.example")

    assert [(row["verdict"], row["removed_at"] is not None) for row in rows] == [("suspect", True), ("block", True)]


def test_a_layer_takes_only_what_its_key_may_say(quiet: Company) -> None:
    allow = quiet.attempt("ble", "add", "domain", "a.example", "--verdict", "allow", "--layer", "emergency")
    endless = quiet.attempt("ble", "add", "domain", "a.example", "--verdict", "block", "--layer", "feeds")

    assert (allow.returncode, endless.returncode) == (2, 2)
    assert quiet.json("ble", "list")["entries"] == []
