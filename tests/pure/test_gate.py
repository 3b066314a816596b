# SPDX-License-Identifier: Apache-2.0
"""The gate: what no feed may put on the list, and why."""

import json
from pathlib import Path
from typing import Any

import pytest

from mamplus_enterprise.ble.gate import Gate
from mamplus_enterprise.ble.never import Never
from mamplus_enterprise.ble.ranges import Ranges, span
from mamplus_enterprise.ble.warninglists import Warninglists
from mamplus_host.ble.entry import Kind
from mamplus_host.errors import ConfigInvalid

GOOD_HASH = "e3" * 32


def listed(
    folder: Path, name: str, values: list[str], *, type_: str = "string", attributes: tuple[str, ...] = ()
) -> None:
    content: dict[str, Any] = {
        "name": f"list of {name}",
        "list": values,
        "type": type_,
        "version": 1,
        "description": "",
    }
    content["matching_attributes"] = list(attributes)
    (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A gate with small lists of our own."""
    domain, address = ("domain", "hostname"), ("ip-src", "ip-dst")
    listed(tmp_path, "alexa", ["popular.example.net"], type_="hostname", attributes=domain)
    listed(tmp_path, "bank-website", ["bank.example.com"], type_="hostname", attributes=domain)
    listed(tmp_path, "lots-project", [".hosting.example.org", "*.wild.example.org"], attributes=domain)
    listed(tmp_path, "second-level-tlds", ["co.example"], attributes=domain)
    (tmp_path / "second-level-tlds.json").write_text(
        (tmp_path / "second-level-tlds.json").read_text().replace("list of second-level-tlds", "Second level TLDs")
    )
    listed(tmp_path, "public-dns-v4", ["9.9.9.9", "9.9.8.0/24"], type_="cidr", attributes=address)
    listed(tmp_path, "amazon-aws", ["52.0.0.0/11"], type_="cidr", attributes=address)
    listed(tmp_path, "x-scanning", ["60.0.0.1"], type_="cidr", attributes=address)
    listed(tmp_path, "known-files", [GOOD_HASH.upper(), "aa" * 16], attributes=("sha256", "md5"))
    listed(tmp_path, "phone_numbers", ["/.*/"], type_="regex", attributes=domain)
    never = Never([("mam.example", "the enterprise's own address"), ("45.1.2.3", "us"), ("46.0.0.0/16", "policy")])
    return Gate(never, Warninglists(tmp_path))


@pytest.mark.parametrize(
    ("kind", "value", "code"),
    [
        (Kind.IP, "45.1.2.3", "never"),
        (Kind.IP, "45.1.2.3:443", "never"),
        (Kind.CIDR, "45.1.0.0/16", "never"),
        (Kind.CIDR, "46.0.1.0/24", "never"),
        (Kind.DOMAIN, "mam.example", "never"),
        (Kind.DOMAIN, "=mam.example", "never"),
        (Kind.IP, "10.1.2.3", "private"),
        (Kind.IP, "[fe80::1]:80", "bogon"),
        (Kind.IP, "127.0.0.1", "bogon"),
        (Kind.CIDR, "224.0.0.0/4", "bogon"),
        (Kind.CIDR, "8.0.0.0/6", "private"),
        (Kind.CIDR, "64.0.0.0/9", "wide"),
        (Kind.CIDR, "2600::/16", "wide"),
        (Kind.PORT, "443", "wide"),
        (Kind.IP, "9.9.9.9", "known"),
        (Kind.CIDR, "9.9.0.0/16", "known"),
        (Kind.CIDR, "9.9.8.128/25", "known"),
        (Kind.SHA256, GOOD_HASH, "known"),
        (Kind.DOMAIN, "popular.example.net", "known"),
        (Kind.DOMAIN, "example.net", "known"),
        (Kind.DOMAIN, "login.bank.example.com", "known"),
        (Kind.DOMAIN, "hosting.example.org", "known"),
        (Kind.DOMAIN, "a.wild.example.org", "known"),
        (Kind.DOMAIN, "co.example", "suffix"),
    ],
)
def test_what_must_not_be_blocked_is_refused_with_its_reason(gate: Gate, kind: Kind, value: str, code: str) -> None:
    refusal = gate.ask(kind, value).refusal

    assert refusal is not None
    assert (refusal.code, bool(refusal.reason)) == (code, True)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Kind.IP, "45.1.2.4"),
        (Kind.IP, "2600::1"),
        (Kind.CIDR, "64.0.0.0/10"),
        (Kind.SHA256, "aa" * 32),
        (Kind.DOMAIN, "evil.mam.example"),  # somebody else's name below a protected one that has no owner rule
        (Kind.DOMAIN, "evil.popular.example.net"),
        (Kind.DOMAIN, "evil.hosting.example.org"),
        (Kind.DOMAIN, "=example.net"),
        (Kind.DOMAIN, "bad.co.example"),
    ],
)
def test_what_harms_nobody_passes(gate: Gate, kind: Kind, value: str) -> None:
    assert gate.ask(kind, value).refusal is None


def test_addresses_that_anybody_can_rent_are_only_noted(gate: Gate) -> None:
    assert gate.ask(Kind.IP, "52.1.2.3") == (None, "list of amazon-aws")
    assert gate.ask(Kind.IP, "60.0.0.1").note == "list of x-scanning"


def test_the_host_of_a_url_is_not_blocked_where_many_share_it(gate: Gate) -> None:
    shared = gate.ask(Kind.DOMAIN, "www.popular.example.net", is_host_of_url=True).refusal

    assert gate.ask(Kind.DOMAIN, "www.popular.example.net").refusal is None
    assert shared is not None
    assert shared.code == "shared"


def test_a_line_of_the_never_block_set_that_is_nothing_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="line 3 of never-block"):
        Never([("no dots", "line 3 of never-block.txt")])


def test_only_the_outermost_of_nested_networks_is_kept_and_it_answers_for_all() -> None:
    ranges = Ranges([("45.0.0.0/24", 1), ("45.0.0.0/16", 2), ("45.2.0.0/16", 3), ("2a00::/32", 4)])

    answers = [
        ranges.touching(span(text)) for text in ("45.0.0.9", "45.0.255.255", "45.1.0.0", "44.0.0.0/6", "2a00:0:1::")
    ]
    assert answers[:3] == [2, 2, None]
    assert answers[3] in (2, 3)
    assert answers[4] == 4


def test_the_installed_lists_know_the_best_known_values() -> None:
    gate = Gate(Never(), Warninglists())

    for kind, value in (
        (Kind.IP, "8.8.8.8"),
        (Kind.DOMAIN, "google.com"),
        (Kind.DOMAIN, "co.uk"),
        (Kind.IP, "192.0.2.1"),
    ):
        assert gate.ask(kind, value).refusal is not None, value
    assert gate.ask(Kind.DOMAIN, "evil.github.io").refusal is None
