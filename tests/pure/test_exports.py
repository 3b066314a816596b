# SPDX-License-Identifier: Apache-2.0
"""The list for other tools: what comes out comes in again, and what cannot be said is counted."""

import csv
import itertools
import json
import random
from collections.abc import Iterable
from ipaddress import ip_address, ip_network

import pytest
import stix2

from mamplus_enterprise.ble.exports.common import About
from mamplus_enterprise.ble.exports.decided import Decisions, Prefix, Sort, apart, changing
from mamplus_enterprise.ble.exports.formats import EXPORTS
from mamplus_enterprise.ble.feeds.formats import FORMATS
from mamplus_enterprise.ble.feeds.found import Context, Found
from mamplus_enterprise.ble.feeds.values import canonical_values
from mamplus_host.analyzer.verify import verify
from mamplus_host.ble.encode import encode
from mamplus_host.ble.endpoint import Endpoint, endpoint_value
from mamplus_host.ble.entry import PROTOCOLS, Entry, Kind, address_key, canonical
from mamplus_host.ble.format import Generation
from mamplus_host.verdicts import Severity, Verdict

CREATED, LATER = 1_790_000_000, 1_800_000_000
HASH = "ab" * 32
Said = tuple[str, str, str]  # kind, value, verdict


def entry(number: int, kind: Kind, value: str, verdict: Verdict = Verdict.BLOCK, **more: object) -> Entry:
    return Entry(id=number, kind=kind, value=value, verdict=verdict, **more)  # type: ignore[arg-type]


ENTRIES = [
    entry(1, Kind.IP, "45.66.7.1", reason='a "quoted", reason', source="feed", confidence=60, valid_until=LATER),
    entry(2, Kind.IP, "2a00::1", link="https://x.example/1"),
    entry(3, Kind.IP, "45.66.7.2:443"),
    entry(4, Kind.IP, "[2a00::2]:53/udp"),
    entry(5, Kind.CIDR, "45.66.0.0/16", severity=Severity.CRITICAL),
    entry(6, Kind.CIDR, "2a00:1::/32"),
    entry(7, Kind.DOMAIN, "bad.example"),
    entry(8, Kind.DOMAIN, "=exact.example"),
    entry(9, Kind.DOMAIN, "odd.example", Verdict.SUSPECT),
    entry(10, Kind.DOMAIN, "fine.bad.example", Verdict.ALLOW),
    entry(11, Kind.CIDR, "45.66.9.0/24", Verdict.ALLOW),
    entry(12, Kind.SHA256, HASH),
    entry(13, Kind.TLS, "cd" * 32),
    entry(14, Kind.PORT, "6667/tcp"),
    entry(15, Kind.IP, "45.66.7.3:*/udp"),
    entry(16, Kind.CIDR, "45.66.4.0/24:443/tcp"),
]

A, B = Verdict.ALLOW, Verdict.BLOCK
_NESTED = (
    (Kind.CIDR, B, "45.66.0.0/16 45.66.9.8/29 45.66.20.0/24:443 46.0.0.0/8:*/udp 0.0.0.0/1:8080/udp"),
    (
        Kind.CIDR,
        A,
        "45.66.9.0/24 45.66.9.9/32 45.66.20.0/24:443/tcp 45.66.8.0/24:8080 46.1.0.0/16:53 46.1.2.0/24:443/udp",
    ),
    (Kind.CIDR, A, "45.66.7.0/25:80 2a00:1:2::/48"),
    (Kind.CIDR, B, "2a00:1::/32 2a00:1:2:3::/64 [2a00:1:2::/48]:443/tcp"),
    (Kind.IP, A, "45.66.7.1 45.66.9.8:443 45.67.0.1:443/tcp 45.67.0.1:*/udp 2a00:1::5"),
    (
        Kind.IP,
        B,
        "45.66.7.1:443 45.66.9.7 45.66.9.1:80/tcp 45.67.0.1 45.67.0.1:53/udp [2a00:1::5]:443 [2a00:9::5]:53/udp",
    ),
    (Kind.PORT, B, "6667 8080"),
    (Kind.PORT, A, "6667/udp 8080/tcp"),
)
_EACH = ((kind, value, verdict) for kind, verdict, values in _NESTED for value in values.split())
NESTED = [entry(number, *said) for number, said in enumerate(_EACH, 1)]


def exported(name: str, entries: Iterable[Entry] = ENTRIES) -> tuple[str, About]:
    about = About("ef" * 32, "Test Ltd\nsecond line", 7, CREATED)
    return "".join(f"{line}\n" for line in EXPORTS[name](entries, about)), about


def read_back(name: str, text: str) -> list[Found]:
    format_ = FORMATS[name]
    if format_.document is not None:
        return [one for _, _, parts in format_.document(text.encode()) for one in parts or () if isinstance(one, Found)]
    assert format_.line is not None
    head = text.splitlines()
    context = Context(columns=format_.columns(head) if format_.columns else {})
    return [one for line in head for one in format_.line(line, context)]


def meaning(found: Iterable[Found]) -> set[Said]:
    return {
        (kind.name, value, (one.verdict or Verdict.BLOCK).name)
        for one in found
        for kind, value, _ in canonical_values(one.text, one.kind)
    }


def said(*numbers: int) -> set[Said]:
    return {(one.kind.name, one.value, one.verdict.name) for one in ENTRIES if one.id in numbers}


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("csv", tuple(range(1, 17))),
        ("stix", (1, 2, 3, 5, 6, 7, 9, 12, 13)),
        ("misp", (1, 2, 3, 4, 5, 6, 7, 12, 13, 16)),
        ("hosts", (7,)),
    ],
)
def test_what_was_exported_is_imported_again_as_it_was(name: str, numbers: tuple[int, ...]) -> None:
    text, about = exported(name)

    wanted = said(*numbers)
    if name == "hosts":
        wanted |= {("DOMAIN", "exact.example", "BLOCK")}  # a hosts file knows no sub-domains anyhow
    assert meaning(read_back(name, text)) == wanted
    assert len(wanted) + sum(about.left_out.values()) == len(ENTRIES) - (name == "misp")


def test_what_was_left_out_is_named_with_what_is_special_about_it() -> None:
    odd = [
        entry(1, Kind.IP, "45.66.7.1:443/tcp"), entry(2, Kind.IP, "45.66.7.2:443"), entry(3, Kind.DOMAIN, "=a.example"),
        entry(4, Kind.IP, "45.66.7.3"), entry(5, Kind.IP, "45.66.7.4", verdict=Verdict.SUSPECT),
    ]  # fmt: skip

    stix, crowdsec = (exported(name, odd)[1].left_out for name in ("stix", "crowdsec"))

    assert stix == {"ip with port and protocol": 1, "domain without sub-domains": 1}
    assert crowdsec == {
        "ip with port and protocol": 1, "ip with port": 1, "domain without sub-domains": 1, "verdict suspect": 1,
    }  # fmt: skip


def test_our_csv_and_stix_keep_confidence_end_reason_and_link() -> None:
    for name in ("csv", "stix"):
        found = {one.text: one for one in read_back(name, exported(name)[0])}
        first = found["45.66.7.1"]
        assert (first.confidence, first.valid_until, first.reason) == (60, LATER, 'a "quoted", reason'), name
        assert found["2a00::1"].link == "https://x.example/1"


def test_a_reader_of_stix_takes_the_bundle() -> None:
    bundle = stix2.parse(exported("stix")[0], allow_custom=False)

    indicators = [one for one in bundle.objects if one.type == "indicator"]
    assert len(indicators) == 9
    assert indicators[0].confidence == 60
    assert [one.id for one in stix2.parse(exported("stix")[0]).objects] == [one.id for one in indicators]


def test_crowdsec_gets_addresses_and_networks_with_what_is_left_of_their_time() -> None:
    decisions = json.loads(exported("crowdsec")[0])
    rows = list(csv.DictReader(exported("crowdsec-csv")[0].splitlines()))

    assert [(one["scope"], one["value"], one["type"]) for one in decisions] == [
        ("ip", "45.66.7.1", "ban"), ("ip", "2a00::1", "ban"), ("range", "45.66.0.0/16", "ban"),
        ("range", "2a00:1::/32", "ban"),
    ]  # fmt: skip
    assert decisions[0]["duration"] == f"{-(-(LATER - CREATED) // 3600)}h"
    assert rows == decisions


def test_a_zone_names_each_domain_with_its_sub_domains_and_each_address_backwards() -> None:
    text, about = exported("rpz")

    assert "\nbad.example CNAME .\n*.bad.example CNAME .\n" in text
    assert "\nexact.example CNAME .\n" in text
    assert "*.exact.example" not in text
    assert "\nfine.bad.example CNAME rpz-passthru.\n" in text
    assert "\n32.1.7.66.45.rpz-ip CNAME .\n" in text
    assert "\n16.0.0.66.45.rpz-ip CNAME .\n" in text
    assert "\n128.1.0.0.0.0.0.0.2a00.rpz-ip CNAME .\n" in text
    assert about.left_out["verdict suspect"] == 1


@pytest.mark.parametrize("name", EXPORTS)
def test_a_name_or_reason_of_several_lines_begins_no_line_of_its_own(name: str) -> None:
    evil = [entry(1, Kind.IP, "45.66.7.1", reason="x\nadd mamplus-block4 8.8.8.8\n", source="a\nb")]

    text, _ = exported(name, evil)

    assert "\nadd mamplus-block4 8.8.8.8" not in text
    assert "\nsecond line" not in text


@pytest.mark.parametrize("name", EXPORTS)
def test_an_empty_list_is_a_whole_file_too(name: str) -> None:
    text, about = exported(name, [])

    assert text
    assert not about.left_out
    if name in FORMATS:
        assert meaning(read_back(name, text)) == set()


def some_entries(seed: int) -> list[Entry]:
    """Entries about few addresses and ports, so that they meet."""
    chance, found = random.Random(seed), dict[str, Entry]()
    for number in range(1, 30):
        top, length = chance.choice((("45.66.7.", 32), ("2a00::", 128))), chance.choice((0, 1, 2, 3, 4))
        network = ip_network(f"{top[0]}{chance.randrange(16)}/{top[1] - length}", strict=False)
        is_host = length == 0 and chance.random() < 0.8
        where = str(network.network_address if is_host else network)
        qualifier = chance.choice(("", "", "", ":443", ":443/tcp", ":443/udp", ":*/tcp", ":*/udp", ":53"))
        if qualifier and ":" in where:
            where = f"[{where}]"
        if length == 0 and not is_host and qualifier:
            continue
        kind = Kind.IP if is_host else Kind.CIDR
        verdict = chance.choice((Verdict.ALLOW, Verdict.BLOCK))
        found[where + qualifier] = entry(number, kind, canonical(kind, where + qualifier), verdict)
    return list(found.values())


def decided(ranges: dict[Sort, list[Prefix]], number: int, asked: Sort) -> Verdict:
    """What a tool makes of it: the first sort of packets with ranges around the address."""
    for sort, found in ranges.items():
        if sort.version == asked.version and sort.protocol in ("", asked.protocol) and sort.port in (0, asked.port):
            for one in found:
                if one.first <= number <= one.last:
                    return one.verdict
    return Verdict.NOTHING


@pytest.mark.parametrize("seed", range(30))
def test_what_is_worked_out_for_tools_is_what_devices_answer_for_every_address_and_port(seed: int) -> None:
    entries, decisions = some_entries(seed), Decisions()
    for one in entries:
        decisions.add(one)
    ranges = {sort: [*apart(changing(decisions.prefixes(sort), Verdict.NOTHING))] for sort in decisions.sorts()}
    device = Generation(encode(entries, generation=1, created_s=0))

    for text, protocol, port in itertools.product(
        [f"{top}{last:x}" if ":" in top else f"{top}{last}" for top in ("45.66.7.", "2a00::") for last in range(17)],
        PROTOCOLS,
        (443, 53, 80),
    ):
        at = Endpoint(address_key(text), 128, PROTOCOLS[protocol], port)
        wanted = verify(device, *endpoint_value(at), now_s=1).verdict
        said = decided(ranges, int(ip_address(text)), Sort(ip_address(text).version, protocol, port))
        assert said is wanted, (text, protocol, port)
