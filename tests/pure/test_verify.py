# SPDX-License-Identifier: Apache-2.0
"""`Verify(BLE)`: specificity within a kind, order across kinds, expiry."""

import pytest

from mamplus_host.analyzer.verify import verify, verify_text
from mamplus_host.ble.encode import encode
from mamplus_host.ble.entry import Entry, Kind, canonical
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.stack import LayerFiles, Stack
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
        ([(Kind.CIDR, "10.0.0.0/8", B), (Kind.CIDR, "10.1.0.0/16", A)], Kind.IP, "10.1.2.3", A),
        ([(Kind.CIDR, "10.0.0.0/8", B), (Kind.IP, "10.1.2.3", A)], Kind.IP, "10.1.2.3", A),
        ([(Kind.CIDR, "10.0.0.0/8", B), (Kind.IP, "10.1.2.3", S)], Kind.IP, "10.1.2.3", B),
        ([(Kind.CIDR, "0.0.0.0/0", B)], Kind.IP, "2001:db8::1", N),
        ([(Kind.CIDR, "2001:db8::/32", B)], Kind.CIDR, "2001:db8:5::/48", B),
        ([(Kind.DOMAIN, "bad.example", B)], Kind.DOMAIN, "a.b.Bad.Example.", B),
        ([(Kind.DOMAIN, "bad.example", B)], Kind.DOMAIN, "notbad.example", N),
        ([(Kind.DOMAIN, "=bad.example", B)], Kind.DOMAIN, "bad.example", B),
        ([(Kind.DOMAIN, "=bad.example", B)], Kind.DOMAIN, "www.bad.example", N),
        ([(Kind.DOMAIN, "bad.example", B), (Kind.DOMAIN, "good.bad.example", A)], Kind.DOMAIN, "x.good.bad.example", A),
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
        ([(Kind.PATH, "/opt/**", B), (Kind.PATH, "/opt/good/*", A)], Kind.PATH, "/opt/good/x", A),
        ([(Kind.PATH, "/opt/**", B), (Kind.PATH, "/opt/good", A)], Kind.PATH, "/opt/good", A),
        ([(Kind.PATH, "/opt/?x", S), (Kind.PATH, "/opt/[a-c]x", B)], Kind.PATH, "/opt/ax", B),  # none says more
        ([(Kind.PATH, "/opt/*", B)], Kind.PATH, "/opt/*", B),  # the pattern itself
        ([(Kind.PACKAGE, "deb:openssl<3.0.11", B)], Kind.PACKAGE, "deb:openssl=3.0.9-1", B),
        ([(Kind.PACKAGE, "deb:openssl<3.0.11", B)], Kind.PACKAGE, "rpm:openssl=3.0.9-1", N),
        (
            [(Kind.PACKAGE, "deb:openssl", B), (Kind.PACKAGE, "deb:openssl>=3.0.11", A)],
            Kind.PACKAGE,
            "deb:openssl=4",
            A,
        ),
        ([(Kind.PACKAGE, "deb:openssl<4", S), (Kind.PACKAGE, "deb:openssl<5", B)], Kind.PACKAGE, "deb:openssl=3", B),
        ([(Kind.PACKAGE, "deb:openssl<4", B), (Kind.PACKAGE, "deb:openssl=3", A)], Kind.PACKAGE, "deb:openssl=3", A),
        ([(Kind.USER, "eve", B)], Kind.USER, "eve", B),
        ([(Kind.USER, "eve", B)], Kind.USER, "Eve", N),
        ([(Kind.USER, "gunnar", B)], Kind.GROUP, "gunnar", N),
        ([(Kind.USB, "0781:*", B)], Kind.USB, "0781:5581:ABC", B),
        ([(Kind.USB, "0781:*", B), (Kind.USB, "0781:5581", A)], Kind.USB, "0781:5581:ABC", A),
        ([(Kind.USB, "0781:5581", B), (Kind.USB, "0781:5581:ABC", A)], Kind.USB, "0781:5581:ABC", A),
        ([(Kind.USB, "0781:5581", B), (Kind.USB, "0781:*:ABC", A)], Kind.USB, "0781:5581:ABC", A),
        ([(Kind.USB, "0781:5581:ABC", B)], Kind.USB, "0781:5581", N),
        ([(Kind.YARA, "rule a { condition: true }", B)], Kind.YARA, "rule a { condition: true }\n", B),
    ],
)
def test_of_texts_the_most_specific_entry_wins(
    lines: list[tuple[Kind, str, Verdict]], kind: Kind, value: str, wanted: Verdict
) -> None:
    assert verify_text(ble(*lines), kind, value, now_s=1).verdict is wanted


DOUBTED = [
    (Kind.IP, "198.18.0.7:443/tcp", "198.18.0.7", "198.18.0.7:*/tcp"),
    (Kind.IP, "198.18.0.7:443/tcp", "198.18.0.7:443", "198.18.0.7:443/tcp"),
    (Kind.IP, "[2001:db8::7]:443/tcp", "2001:db8::7", "[2001:db8::7]:*/tcp"),
    (Kind.IP, "198.19.1.1:443/tcp", "198.19.0.0/16", "198.19.0.0/17"),
    (Kind.IP, "198.19.1.1:443/tcp", "198.19.0.0/16", "198.19.0.0/17:443"),
    (Kind.IP, "203.0.113.1:443/tcp", "443", "443/tcp"),
    (Kind.DOMAIN, "c2.evil.example", "evil.example", "c2.evil.example"),
    (Kind.DOMAIN, "evil.example", "evil.example", "=evil.example"),
    (Kind.PATH, "/opt/bad/x", "/opt/**", "/opt/bad/*"),
    (Kind.PATH, "/opt/bad/x", "/opt/**", "/opt/bad/x"),
    (Kind.PACKAGE, "deb:openssl=3", "deb:openssl<4", "deb:openssl=3"),
    (Kind.USB, "0781:5581:ABC", "0781:*", "0781:5581:ABC"),
]


def kind_of(kind: Kind, value: str) -> Kind:
    """Return what an entry about addresses of this value is called."""
    if kind is not Kind.IP:
        return kind
    return Kind.CIDR if "/1" in value else Kind.IP if "." in value or "[" in value or "::" in value else Kind.PORT


@pytest.mark.parametrize("layer", [Layer.ENTERPRISE, Layer.EMERGENCY, Layer.FEEDS])
@pytest.mark.parametrize("decided", [B, A])
@pytest.mark.parametrize(("kind", "asked", "wide", "narrow"), DOUBTED)
def test_no_suspicion_however_specific_takes_back_what_a_wider_entry_says(
    kind: Kind, asked: str, wide: str, narrow: str, decided: Verdict, layer: Layer
) -> None:
    administrators, doubt = (kind_of(kind, wide), wide, decided), (kind_of(kind, narrow), narrow, S)
    if layer is Layer.ENTERPRISE:
        stack = Stack.of(ble(administrators, doubt))
    else:
        stack = Stack([LayerFiles(Layer.ENTERPRISE, ble(administrators)), LayerFiles(layer, ble(doubt))])

    answer = verify_text(stack, kind, asked, now_s=1)

    assert answer.verdict is decided
    assert answer.entry is not None
    assert answer.entry.value == canonical(*administrators[:2])
    assert verify_text(ble(doubt), kind, asked, now_s=1).verdict is S


def test_of_suspicions_alone_the_most_specific_is_named() -> None:
    answer = verify_text(
        ble((Kind.DOMAIN, "evil.example", S), (Kind.DOMAIN, "c2.evil.example", S)),
        Kind.DOMAIN, "a.c2.evil.example", now_s=1,
    )  # fmt: skip

    assert answer.entry is not None
    assert answer.entry.value == "c2.evil.example"


def test_a_pattern_past_its_end_gives_way_to_a_wider_one() -> None:
    lines = [(Kind.PATH, "/opt/a/*", A, 100), (Kind.PATH, "/opt/**", B, 0)]
    entries = [
        Entry(id=n, kind=k, value=v, verdict=says, valid_until=end) for n, (k, v, says, end) in enumerate(lines, 1)
    ]
    generation = Generation(encode(entries, generation=9, created_s=0))

    assert verify(generation, Kind.PATH, "/opt/a/b", now_s=99).verdict is A
    assert verify(generation, Kind.PATH, "/opt/a/b", now_s=101).verdict is B
