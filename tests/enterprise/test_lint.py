# SPDX-License-Identifier: Apache-2.0
"""What is wrong, or only useless, in the working list is found before a device meets it."""

import json
import time

import pytest

from mamplus_enterprise.ble.gate import Gate
from mamplus_enterprise.ble.lint import lint
from mamplus_enterprise.ble.never import Never
from mamplus_enterprise.storage.store import Store
from mamplus_host.ble.entry import Kind
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.limits import LIMITS, Limits
from mamplus_host.verdicts import Verdict
from tests.enterprise.company import Company
from tests.enterprise.test_states import SOON, write


def test_lint_finds_each_sort_of_mistake(store: Store) -> None:
    soon = int(time.time()) + 86_400
    write(store, Kind.DOMAIN, "never.example")
    write(store, Kind.DOMAIN, "both.example", Verdict.ALLOW)
    write(store, Kind.DOMAIN, "both.example", layer=Layer.EMERGENCY)
    write(store, Kind.DOMAIN, "twice.example")
    write(store, Kind.DOMAIN, "twice.example", layer=Layer.EMERGENCY)
    write(store, Kind.DOMAIN, "wide.example")
    write(store, Kind.DOMAIN, "a.wide.example")
    write(store, Kind.DOMAIN, "b.wide.example", Verdict.ALLOW)
    write(store, Kind.CIDR, "45.66.0.0/16")
    write(store, Kind.CIDR, "45.66.7.0/24")
    write(store, Kind.IP, "45.66.8.1")
    write(store, Kind.IP, "45.66.8.1:443")
    write(store, Kind.CIDR, "46.0.0.0/16", Verdict.ALLOW)
    write(store, Kind.IP, "46.0.0.1")
    write(store, Kind.CIDR, "46.0.1.0/24")
    write(store, Kind.DOMAIN, "soon.example", until=soon)
    write(store, Kind.DOMAIN, "fine.example")
    write(store, Kind.TLS, "ab" * 32, layer=Layer.FEEDS, until=soon + SOON)

    with store.reading() as session:
        found = list(lint(session, Gate(Never([("never.example", "us")]), None), soon_s=2 * 86_400))

    assert {(one.code, one.value) for one in found} == {
        ("gate", "never.example"), ("outranked", "both.example"), ("twice", "twice.example"),
        ("shadowed", "a.wide.example"), ("shadowed", "45.66.7.0/24"), ("shadowed", "45.66.8.1"),
        ("outranked", "46.0.0.1"), ("ends", "soon.example"), ("key", "ab" * 32),
    }  # fmt: skip


def test_lint_names_a_kind_and_a_layer_that_hold_more_than_devices_take(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mamplus_enterprise.ble.lint.MAX_FEW", 2)
    monkeypatch.setitem(LIMITS, Layer.EMERGENCY, Limits(entries=2))
    for name in ("one", "two", "three"):
        write(store, Kind.PATH, f"/opt/{name}")
        write(store, Kind.DOMAIN, f"{name}.example")
        write(store, Kind.DOMAIN, f"{name}-now.example", layer=Layer.EMERGENCY)
    write(store, Kind.USER, "eve")

    with store.reading() as session:
        found = [one for one in lint(session, Gate(Never(), None), soon_s=0) if one.code == "full"]

    assert [(one.layer, one.value) for one in found] == [
        ("emergency", "three-now.example"),
        ("enterprise", "/opt/three"),
    ]
    assert "holds 3 entries, want at most 2; remove" in found[0].why
    assert "holds 3 of this kind, want at most 2, for devices search them one by one; write wider" in found[1].why


def test_lint_shows_what_harms_first_and_few_of_what_is_only_useless(quiet: Company, store: Store) -> None:
    write(store, Kind.DOMAIN, "soon.example", until=int(time.time()) + 86_400)
    write(store, Kind.DOMAIN, "wide.example")
    for number in range(9):
        write(store, Kind.DOMAIN, f"a{number}.wide.example")
    write(store, Kind.DOMAIN, "google.com")

    done = quiet.attempt("ble", "lint")
    every = quiet.attempt("ble", "lint", "--limit", "0")

    sorts = [line.split()[0] for line in done.stdout.splitlines()[1:]]
    assert sorts == ["gate", "shadowed", "shadowed", "shadowed", "ends"], done.stdout
    assert "1 gate, 9 shadowed, 1 ends" in done.stderr
    assert "6 are not shown; --limit 0 shows all" in done.stderr
    assert len(every.stdout.splitlines()) == 12


def test_lint_is_exit_1_for_what_harms_and_0_for_what_is_only_useless(quiet: Company) -> None:
    quiet.run("ble", "add", "domain", "wide.example", "--verdict", "block")
    quiet.run("ble", "add", "domain", "a.wide.example", "--verdict", "block")
    useless = quiet.attempt("ble", "lint", "--json")
    quiet.run("ble", "add", "domain", "google.com", "--verdict", "block")
    harmful = quiet.attempt("ble", "lint", "--json")

    assert (useless.returncode, json.loads(useless.stdout)["counts"]) == (0, {"shadowed": 1})
    assert (harmful.returncode, json.loads(harmful.stdout)["counts"]["gate"]) == (1, 1)
