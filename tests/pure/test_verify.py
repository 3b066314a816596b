# SPDX-License-Identifier: Apache-2.0
"""`Verify(BLE)`: specificity within a kind, order across kinds, expiry."""

import pytest

from mamplus_host.analyzer.verify import verify, verify_text
from mamplus_host.ble.encode import encode
from mamplus_host.ble.entry import Entry, Kind, canonical
from mamplus_host.ble.format import Generation
from mamplus_host.errors import ConfigInvalid
from mamplus_host.verdicts import Verdict

B, A, S, N = Verdict.BLOCK, Verdict.ALLOW, Verdict.SUSPECT, Verdict.NOTHING


def ble(*lines: tuple[Kind, str, Verdict], valid_until: int = 0) -> Generation:
    entries = [
        Entry(id=i, kind=kind, value=canonical(kind, value), verdict=verdict, valid_until=valid_until)
        for i, (kind, value, verdict) in enumerate(lines, 1)
    ]
    return Generation(encode(entries, generation=9, created_s=0))


@pytest.mark.parametrize(
    ("lines", "kind", "value", "wanted"),
    [
        ([(Kind.SHA256, "ab" * 32, B)], Kind.SHA256, "AB" * 32, B),
        ([(Kind.SHA256, "ab" * 32, B)], Kind.SHA256, "ac" * 32, N),
        ([(Kind.IP, "203.0.113.7", B)], Kind.IP, "::ffff:203.0.113.7", B),
        ([(Kind.CIDR, "10.0.0.0/8", B)], Kind.IP, "10.1.2.3", B),
        ([(Kind.CIDR, "10.0.0.0/8", B)], Kind.IP, "11.1.2.3", N),
        ([(Kind.CIDR, "10.0.0.0/8", B), (Kind.CIDR, "10.1.0.0/16", S)], Kind.IP, "10.1.2.3", S),
        ([(Kind.CIDR, "10.0.0.0/8", B), (Kind.IP, "10.1.2.3", A)], Kind.IP, "10.1.2.3", A),
        ([(Kind.CIDR, "10.0.0.0/8", B), (Kind.IP, "10.1.2.3", S)], Kind.IP, "10.1.2.3", B),
        ([(Kind.CIDR, "0.0.0.0/0", B)], Kind.IP, "2001:db8::1", N),
        ([(Kind.CIDR, "2001:db8::/32", B)], Kind.CIDR, "2001:db8:5::/48", B),
        ([(Kind.DOMAIN, "bad.example", B)], Kind.DOMAIN, "a.b.Bad.Example.", B),
        ([(Kind.DOMAIN, "bad.example", B)], Kind.DOMAIN, "notbad.example", N),
        ([(Kind.DOMAIN, "=bad.example", B)], Kind.DOMAIN, "bad.example", B),
        ([(Kind.DOMAIN, "=bad.example", B)], Kind.DOMAIN, "www.bad.example", N),
        ([(Kind.DOMAIN, "bad.example", B), (Kind.DOMAIN, "good.bad.example", S)], Kind.DOMAIN, "x.good.bad.example", S),
    ],
)
def test_the_most_specific_entry_wins_within_a_kind_and_the_order_of_verdicts_across(
    lines: list[tuple[Kind, str, Verdict]], kind: Kind, value: str, wanted: Verdict
) -> None:
    answer = verify_text(ble(*lines), kind, value, now_s=1)

    assert answer.verdict is wanted
    assert answer.generation == 9
    assert (answer.entry is None) == (wanted is N)


def test_an_entry_is_silent_past_its_end() -> None:
    generation = ble((Kind.IP, "203.0.113.7", B), valid_until=100)

    assert verify(generation, Kind.IP, "203.0.113.7", now_s=99).verdict is B
    assert verify(generation, Kind.IP, "203.0.113.7", now_s=101).verdict is N


def test_without_a_generation_the_answer_is_generation_zero() -> None:
    assert verify(None, Kind.IP, "203.0.113.7", now_s=1).generation == 0


def test_a_value_that_is_none_of_its_kind_is_refused_with_an_example() -> None:
    with pytest.raises(ConfigInvalid, match=r"'pluto' is no IP address; want one like 203\.0\.113\.7"):
        verify_text(None, Kind.IP, "pluto", now_s=1)


@pytest.mark.parametrize(
    ("lines", "kind", "value", "wanted"),
    [
        ([(Kind.PATH, "/usr/bin/nc", B)], Kind.PATH, "/bin/../bin/nc", B),
        ([(Kind.PATH, "/opt/**", B)], Kind.PATH, "/opt/a/b", B),
        ([(Kind.PATH, "/opt/**", B)], Kind.PATH, "/opts/a", N),
        ([(Kind.PATH, "/opt/**", B), (Kind.PATH, "/opt/good/*", S)], Kind.PATH, "/opt/good/x", S),
        ([(Kind.PATH, "/opt/**", B), (Kind.PATH, "/opt/good", S)], Kind.PATH, "/opt/good", S),
        ([(Kind.PATH, "/opt/?x", S), (Kind.PATH, "/opt/[a-c]x", B)], Kind.PATH, "/opt/ax", B),  # none says more
        ([(Kind.PATH, "/opt/*", B)], Kind.PATH, "/opt/*", B),  # the pattern itself
        ([(Kind.PACKAGE, "deb:openssl<3.0.11", B)], Kind.PACKAGE, "deb:openssl=3.0.9-1", B),
        ([(Kind.PACKAGE, "deb:openssl<3.0.11", B)], Kind.PACKAGE, "rpm:openssl=3.0.9-1", N),
        (
            [(Kind.PACKAGE, "deb:openssl", B), (Kind.PACKAGE, "deb:openssl>=3.0.11", S)],
            Kind.PACKAGE,
            "deb:openssl=4",
            S,
        ),
        ([(Kind.PACKAGE, "deb:openssl<4", S), (Kind.PACKAGE, "deb:openssl<5", B)], Kind.PACKAGE, "deb:openssl=3", B),
        ([(Kind.PACKAGE, "deb:openssl<4", B), (Kind.PACKAGE, "deb:openssl=3", S)], Kind.PACKAGE, "deb:openssl=3", S),
        ([(Kind.USER, "eve", B)], Kind.USER, "eve", B),
        ([(Kind.USER, "eve", B)], Kind.USER, "Eve", N),
        ([(Kind.USER, "gunnar", B)], Kind.GROUP, "gunnar", N),
        ([(Kind.USB, "0781:*", B)], Kind.USB, "0781:5581:ABC", B),
        ([(Kind.USB, "0781:*", B), (Kind.USB, "0781:5581", S)], Kind.USB, "0781:5581:ABC", S),
        ([(Kind.USB, "0781:5581", B), (Kind.USB, "0781:5581:ABC", S)], Kind.USB, "0781:5581:ABC", S),
        ([(Kind.USB, "0781:5581", B), (Kind.USB, "0781:*:ABC", S)], Kind.USB, "0781:5581:ABC", S),
        ([(Kind.USB, "0781:5581:ABC", B)], Kind.USB, "0781:5581", N),
        ([(Kind.YARA, "rule a { condition: true }", B)], Kind.YARA, "rule a { condition: true }\n", B),
    ],
)
def test_of_texts_the_most_specific_entry_wins(
    lines: list[tuple[Kind, str, Verdict]], kind: Kind, value: str, wanted: Verdict
) -> None:
    assert verify_text(ble(*lines), kind, value, now_s=1).verdict is wanted


def test_a_pattern_past_its_end_gives_way_to_a_wider_one() -> None:
    lines = [(Kind.PATH, "/opt/a/*", S, 100), (Kind.PATH, "/opt/**", B, 0)]
    entries = [
        Entry(id=n, kind=k, value=v, verdict=says, valid_until=end) for n, (k, v, says, end) in enumerate(lines, 1)
    ]
    generation = Generation(encode(entries, generation=9, created_s=0))

    assert verify(generation, Kind.PATH, "/opt/a/b", now_s=99).verdict is S
    assert verify(generation, Kind.PATH, "/opt/a/b", now_s=101).verdict is B
