# SPDX-License-Identifier: Apache-2.0
"""Addresses, networks and ports: one key each, and back; and what an entry about them covers."""

import pytest
from hypothesis import given

from mamplus_host.analyzer.verify import verify
from mamplus_host.ble.encode import encode
from mamplus_host.ble.endpoint import endpoint, endpoint_value
from mamplus_host.ble.entry import Entry, Kind, canonical
from mamplus_host.ble.format import Generation
from mamplus_host.verdicts import Verdict
from tests.pure.test_entry import VALUES

QUALIFIED = VALUES.filter(lambda value: value[0] in (Kind.IP, Kind.CIDR, Kind.PORT))


@given(QUALIFIED)
def test_a_key_reads_back_as_what_has_the_same_key(value: tuple[Kind, str]) -> None:
    at = endpoint(value[0], canonical(*value))

    assert endpoint(*endpoint_value(at)) == at


def answer(asked: str, *entries: tuple[Kind, str, Verdict]) -> Verdict:
    made = [Entry(id=n, kind=kind, value=value, verdict=says) for n, (kind, value, says) in enumerate(entries, 1)]
    return verify(Generation(encode(made, generation=1, created_s=0)), Kind.IP, asked, now_s=0).verdict


BLOCK, ALLOW, NOTHING, SUSPECT = Verdict.BLOCK, Verdict.ALLOW, Verdict.NOTHING, Verdict.SUSPECT


@pytest.mark.parametrize(
    ("asked", "kind", "value", "says"),
    [
        ("203.0.113.7:443/tcp", Kind.IP, "203.0.113.7", BLOCK),
        ("203.0.113.7:443/tcp", Kind.IP, "203.0.113.7:443", BLOCK),
        ("203.0.113.7:443/tcp", Kind.IP, "203.0.113.7:*/tcp", BLOCK),
        ("203.0.113.7:443/tcp", Kind.IP, "203.0.113.7:443/udp", NOTHING),
        ("203.0.113.7", Kind.IP, "203.0.113.7:443", NOTHING),
        ("203.0.113.7:443/tcp", Kind.CIDR, "203.0.113.0/24:443/tcp", BLOCK),
        ("203.0.113.7:443/tcp", Kind.CIDR, "203.0.113.0/24:444", NOTHING),
        ("203.0.113.7:443/tcp", Kind.PORT, "443", BLOCK),
        ("[2001:db8::7]:443/tcp", Kind.PORT, "443/tcp", BLOCK),
        ("[2001:db8::7]:443/udp", Kind.PORT, "443/tcp", NOTHING),
        ("203.0.113.7", Kind.CIDR, "::/0", NOTHING),
        ("2001:db8::7", Kind.CIDR, "::/0", BLOCK),
        ("2001:db8::7", Kind.CIDR, "0.0.0.0/0", NOTHING),
    ],
)
def test_what_an_entry_covers(asked: str, kind: Kind, value: str, says: Verdict) -> None:
    assert answer(asked, (kind, value, BLOCK)) is says


def test_about_one_host_the_more_qualified_entry_decides_and_among_networks_the_longer_prefix() -> None:
    host = "203.0.113.7"
    assert answer(f"{host}:443/tcp", (Kind.IP, host, BLOCK), (Kind.IP, f"{host}:443", ALLOW)) is ALLOW
    wide, narrow = (Kind.CIDR, "203.0.0.0/16:443", BLOCK), (Kind.CIDR, "203.0.113.0/24", ALLOW)
    assert answer(f"{host}:443/tcp", wide, narrow) is ALLOW
    doubted = (Kind.CIDR, "203.0.113.0/24", SUSPECT)
    assert answer(f"{host}:443/tcp", doubted, (Kind.PORT, "443", BLOCK)) is BLOCK
