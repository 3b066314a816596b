# SPDX-License-Identifier: Apache-2.0
"""One canonical spelling of every value, and refusal of what is none."""

from ipaddress import IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mamplus_host.ble.entry import Kind, address_key, canonical, cidr_key, parse_kind
from mamplus_host.ble.hashes import domain_hash
from mamplus_host.errors import ConfigInvalid
from tests.pure.kinds import TEXT_VALUES, is_value

NAMES = st.from_regex(r"\A=?([a-z0-9]{1,8}\.){1,3}[a-z]{2,5}\Z")
NETWORKS = st.builds(lambda a, n: f"{a}/{n % (a.max_prefixlen + 1)}", st.ip_addresses(), st.integers(0, 128))
PORTS = st.builds(lambda port, end: f"{port}{end}", st.integers(1, 65535), st.sampled_from(["", "/tcp", "/udp"]))
QUALIFIERS = st.one_of(PORTS, st.sampled_from(["*/tcp", "*/udp"]))


def _with_port(where: str, qualifier: str) -> str:
    return f"[{where}]:{qualifier}" if ":" in where else f"{where}:{qualifier}"


VALUES = st.one_of(
    st.tuples(st.just(Kind.SHA256), st.binary(min_size=32, max_size=32).map(bytes.hex)),
    st.tuples(st.just(Kind.IP), st.ip_addresses().map(str)),
    st.tuples(st.just(Kind.CIDR), NETWORKS),
    st.tuples(st.just(Kind.DOMAIN), NAMES),
    st.tuples(st.just(Kind.TLS), st.binary(min_size=32, max_size=32).map(bytes.hex)),
    st.tuples(st.just(Kind.PORT), PORTS),
    st.tuples(st.just(Kind.IP), st.builds(_with_port, st.ip_addresses().map(str), QUALIFIERS)),
    st.tuples(st.just(Kind.CIDR), st.builds(_with_port, NETWORKS, QUALIFIERS)).filter(is_value),
)


@given(VALUES)
def test_the_canonical_spelling_is_its_own(value: tuple[Kind, str]) -> None:
    kind, text = value
    once = canonical(kind, text)

    assert canonical(kind, once) == once
    assert canonical(kind, f"  {text.upper()} \n") == once


@given(TEXT_VALUES)
def test_the_canonical_spelling_of_a_text_is_its_own(value: tuple[Kind, str]) -> None:
    once = canonical(*value)

    assert canonical(value[0], once) == once
    assert canonical(value[0], f"  {once} \n") == once


@given(st.sampled_from(Kind), st.text(max_size=80))
def test_any_text_is_canonical_or_refused(kind: Kind, text: str) -> None:
    try:
        once = canonical(kind, text)
    except ConfigInvalid:
        return
    assert canonical(kind, once) == once


@pytest.mark.parametrize(
    ("kind", "text", "wanted"),
    [
        (Kind.IP, "2001:DB8:0:0::7", "2001:db8::7"),
        (Kind.IP, "::ffff:203.0.113.7", "203.0.113.7"),
        (Kind.CIDR, "203.0.113.77/24", "203.0.113.0/24"),
        (Kind.CIDR, "::ffff:203.0.113.0/120", "203.0.113.0/24"),
        (Kind.CIDR, "10.0.0.1/255.0.0.0", "10.0.0.0/8"),
        (Kind.IP, "[2001:DB8::7]:0443/TCP", "[2001:db8::7]:443/tcp"),
        (Kind.IP, "203.0.113.7:*/udp", "203.0.113.7:*/udp"),
        (Kind.CIDR, "203.0.113.77/24:53", "203.0.113.0/24:53"),
        (Kind.PORT, "0443/TCP", "443/tcp"),
        (Kind.TLS, "sha256 Fingerprint=" + ":".join(["AB"] * 32), "ab" * 32),
        (Kind.DOMAIN, "Bad.Example.", "bad.example"),
        (Kind.DOMAIN, "=Bad.Example", "=bad.example"),
        (Kind.DOMAIN, "bücher.example", "xn--bcher-kva.example"),
        (Kind.DOMAIN, "Bad。Example．COM｡", "bad.example.com"),
        (Kind.DOMAIN, "BÜCHER.example", "xn--bcher-kva.example"),
        (Kind.DOMAIN, "straße.example", "xn--strae-oqa.example"),
        (Kind.DOMAIN, "ｂａｄ.example", "bad.example"),
        (Kind.DOMAIN, "XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        (Kind.DOMAIN, "pаypal.example", "xn--pypal-4ve.example"),  # a Cyrillic letter among Latin ones
        (Kind.DOMAIN, "i❤.ws", "xn--i-7iq.ws"),
        (Kind.DOMAIN, "_dmarc.Bad_Name.example", "_dmarc.bad_name.example"),
        (Kind.USER, "uid:0010", "uid:10"),
        (Kind.USER, "CORP\\eve", "CORP\\eve"),
        (Kind.USB, "0781:5581", "0781:5581"),
        (Kind.USB, "0x0781:0x558A:4C53", "0781:558a:4C53"),
        (Kind.USB, "0781:5581:*", "0781:5581"),
        (Kind.USB, "0781:*:A B:C", "0781:*:A B:C"),
        (Kind.YARA, "\ufeffrule a { condition: true }\r\n", "rule a { condition: true }"),
    ],
)
def test_many_spellings_become_one(kind: Kind, text: str, wanted: str) -> None:
    assert canonical(kind, text) == wanted


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Kind.PORT, "0"),
        (Kind.PORT, "65536"),
        (Kind.PORT, "443/sctp"),
        (Kind.PORT, "*"),
        (Kind.IP, "203.0.113.7:*"),
        (Kind.IP, "203.0.113.7:http"),
        (Kind.IP, "[203.0.113.7"),
        (Kind.CIDR, "[::/0]:443"),
        (Kind.CIDR, "203.0.113.7/32:443"),  # the same key as ip 203.0.113.7:443
        (Kind.CIDR, "[2001:db8::7/128]:*/udp"),
        (Kind.TLS, "sha256 Fingerprint=AB"),
        (Kind.SHA256, "ab" * 31),
        (Kind.SHA256, "zz" * 32),
        (Kind.IP, "1.2.3"),
        (Kind.IP, "01.2.3.4"),
        (Kind.IP, "fe80::1%eth0"),
        (Kind.CIDR, "10.0.0.0/33"),
        (Kind.DOMAIN, "localhost"),
        (Kind.DOMAIN, "a..example"),
        (Kind.DOMAIN, "a" * 64 + ".example"),
        (Kind.DOMAIN, "-a.example"),
        (Kind.DOMAIN, "*.example.com"),
        (Kind.DOMAIN, "bad.example/path"),
        (Kind.DOMAIN, "xn--zz.example"),  # decodes to nothing
        (Kind.DOMAIN, "xn--abc-.example"),  # decodes to ASCII
        (Kind.DOMAIN, "xn--BCHER-KVA7.example"),
        (Kind.DOMAIN, "\u0301a.example"),  # begins with a combining mark
        (Kind.DOMAIN, "a\u200eb.example"),
        (Kind.DOMAIN, "bad.example.."),
        (Kind.USER, "1000"),
        (Kind.USER, "uid:4294967295"),
        (Kind.USER, "gid:5"),
        (Kind.USER, "eve:x"),
        (Kind.GROUP, "-x"),
        (Kind.USB, "0781"),
        (Kind.USB, "*:*"),
        (Kind.USB, "0781:558"),
        (Kind.YARA, "nothing"),
        (Kind.SIGMA, "detection:" + "x" * 60000),
    ],
)
def test_what_is_no_value_is_refused_with_what_was_wanted(kind: Kind, text: str) -> None:
    with pytest.raises(ConfigInvalid, match="want"):
        canonical(kind, text)


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigInvalid, match="'hash'; want one of: sha256, ip, cidr, domain"):
        parse_kind("hash")
    assert parse_kind(" Sha256 ") is Kind.SHA256


@given(st.ip_addresses())
def test_equal_addresses_have_equal_keys_and_others_have_others(address: object) -> None:
    key = address_key(canonical(Kind.IP, str(address)))

    assert len(key) == 16
    assert canonical(Kind.IP, str(IPv6Address(key))) == canonical(Kind.IP, str(address))


@given(NETWORKS)
def test_a_networks_key_covers_its_addresses(text: str) -> None:
    value = canonical(Kind.CIDR, text)
    network = ip_network(value)
    prefix, key = cidr_key(value)
    mask = (2**128 - 1) ^ (2 ** (128 - prefix) - 1)

    for inside in (network[0], network[-1]):
        assert int.from_bytes(address_key(str(inside))) & mask == int.from_bytes(key)
    if prefix not in (0, 96):
        outside = ip_address(int(network[0]) ^ (1 << (network.max_prefixlen - network.prefixlen)))
        if outside.version == network.version:
            assert int.from_bytes(address_key(str(outside))) & mask != int.from_bytes(key)


def test_the_hash_of_a_name_is_met_on_the_way_through_a_longer_one() -> None:
    assert domain_hash("") == 0xCBF29CE484222325
    assert domain_hash("a") == 0xAF63DC4C8601EC8C  # the published FNV-1a test vector
    assert domain_hash("ab") != domain_hash("ba")


def test_an_address_is_no_domain() -> None:
    with pytest.raises(ConfigInvalid, match="is no DNS name"):
        canonical(Kind.DOMAIN, "203.0.113.7")
