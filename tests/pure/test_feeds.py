# SPDX-License-Identifier: Apache-2.0
"""Parsers of feeds: text in, values or reasons out."""

import json
from contextlib import suppress

import pytest

from mamplus_enterprise.ble.feeds.auto import guess
from mamplus_enterprise.ble.feeds.formats import FORMATS, format_of
from mamplus_enterprise.ble.feeds.found import Context, Dropped, Found
from mamplus_enterprise.ble.feeds.stix import observables
from mamplus_enterprise.ble.feeds.values import canonical_values
from mamplus_host.ble.entry import Kind
from mamplus_host.errors import ConfigInvalid
from tests.pure.feed_samples import (
    ADBLOCK,
    BAZAAR,
    DROP,
    FEODO,
    HASH,
    HOSTS,
    HSB,
    NETSET,
    SCORES,
    THREATFOX,
    URLHAUS,
)


def parsed(name: str, text: str, **context: object) -> tuple[list[Found], list[str]]:
    """Return values and codes of dropped lines, as the import would see them."""
    format_, head = format_of(name), text.splitlines()
    columns = format_.columns(head) if format_.columns else {}
    found, codes = list[Found](), list[str]()
    for line in head:
        try:
            assert format_.line is not None
            found += format_.line(line.strip(), Context(columns=columns, **context))  # type: ignore[arg-type]
        except Dropped as why:
            codes.append(why.code)
    return found, codes


def values(text: str, kind: Kind | None = None) -> list[tuple[str, str]]:
    return [(seen.name.lower(), value) for seen, value, _ in canonical_values(text, kind)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("45.66.7.1", [("ip", "45.66.7.1")]),
        ("45.66.7.1:443", [("ip", "45.66.7.1:443")]),
        ("45.66.7.9/24", [("cidr", "45.66.7.0/24")]),
        ("45.66.7.9/32", [("ip", "45.66.7.9")]),
        ("2A00::1", [("ip", "2a00::1")]),
        ("2a00::/32", [("cidr", "2a00::/32")]),
        ("45.66.7.0-45.66.8.0", [("cidr", "45.66.7.0/24"), ("ip", "45.66.8.0")]),
        ("45.66.7.4 - 45.66.7.7", [("cidr", "45.66.7.4/30")]),
        ("BAD.Example.", [("domain", "bad.example")]),
        ("bücher.example", [("domain", "xn--bcher-kva.example")]),
        (HASH.upper(), [("sha256", HASH)]),
        ("hxxp://nothing", []),
        ("hxxps://Evil[.]example/x", [("domain", "evil.example")]),
        ("hxxp[:]//45[.]66[.]7(.)8/x", [("ip", "45.66.7.8:80/tcp")]),
        ("45[.]66[.]7[.]1:443", [("ip", "45.66.7.1:443")]),
        ("evil[dot]example", [("domain", "evil.example")]),
        ("evil.example:8443", [("domain", "evil.example")]),
        ("https://User@Evil.example:8443/x?y", [("domain", "evil.example")]),
        ("http://45.66.7.8/bin", [("ip", "45.66.7.8:80/tcp")]),
        ("http://[2a00::1]:81/", [("ip", "[2a00::1]:81/tcp")]),
        ("evil.example/path", [("domain", "evil.example")]),
    ],
)
def test_a_value_becomes_what_it_means(text: str, wanted: list[tuple[str, str]]) -> None:
    if wanted:
        assert values(text) == wanted
    else:
        with pytest.raises(ConfigInvalid):
            values(text)


@pytest.mark.parametrize(
    "text", ["45.66.8.0-45.66.7.0", HASH[:32], "1.2.3", "45.66.7.1-2a00::1", "a_b", "-", "://", "["]
)
def test_what_means_nothing_is_refused_and_not_a_fault(text: str) -> None:
    with pytest.raises(ConfigInvalid):
        values(text)


def test_urlhaus_gives_urls_with_their_threat() -> None:
    found, codes = parsed("urlhaus", URLHAUS)

    assert [one.text for one in found] == ["http://45.66.7.8:40123/bin.sh", "https://evil.example/a,b.exe"]
    assert [one.reason for one in found] == ["malware_download: 32-bit,elf", "malware_download"]
    assert found[0].link == "https://urlhaus.abuse.ch/url/3601/"
    assert codes == []


def test_threatfox_keeps_confidence_and_port_and_drops_md5() -> None:
    found, codes = parsed("threatfox", THREATFOX)

    assert [(one.kind, one.text, one.confidence) for one in found] == [
        (Kind.IP, "45.66.7.9:443/tcp", 75), (Kind.DOMAIN, "bad.example", 100), (Kind.SHA256, HASH, 50),
    ]  # fmt: skip
    assert (found[0].reason, codes) == ("botnet_cc X RAT", ["hash"])


def test_bazaar_and_feodo_give_hashes_and_addresses() -> None:
    (sample,), _ = parsed("bazaar", BAZAAR)
    (server,), _ = parsed("feodo", FEODO)

    assert (sample.kind, sample.text, sample.reason) == (Kind.SHA256, HASH, "Mirai x, y.elf")
    assert (server.kind, server.text, "Emotet" in server.reason) == (Kind.IP, "45.66.7.10", True)


def test_drop_gives_networks_and_refuses_autonomous_systems() -> None:
    (network,), codes = parsed("drop", DROP)

    assert (network.kind, network.text, network.reason, codes) == (
        Kind.CIDR, "45.66.8.0/22", "Spamhaus SBL1", ["unsupported"],
    )  # fmt: skip


def test_netset_takes_ranges_comments_and_upper_case_and_nothing_else() -> None:
    found, codes = parsed("netset", NETSET)

    assert [one.text for one in found] == ["45.66.7.1", "45.66.7.0/28", "45.66.7.10-45.66.7.13", "2A00:0:0::1"]
    assert codes == ["malformed"]


def test_hosts_blocks_names_that_go_nowhere_and_not_this_machine() -> None:
    found, codes = parsed("hosts", HOSTS)

    assert [one.text for one in found] == ["Bad.Example", "worse.example"]
    assert codes == ["malformed"]


def test_adblock_takes_whole_names_and_exceptions_only() -> None:
    found, codes = parsed("adblock", ADBLOCK)

    assert [(one.text, one.is_exception) for one in found] == [("bad.example", False), ("fine.bad.example", True)]
    assert codes == ["unsupported"] * 3


def test_clamav_takes_sha256_alone() -> None:
    found, codes = parsed("clamav", HSB)

    assert [(one.text, one.reason) for one in found] == [(HASH, "Unix.Malware.X-1")]
    assert codes == ["hash", "hash"]


def test_scores_become_confidence_and_low_ones_may_be_dropped() -> None:
    found, codes = parsed("scores", SCORES, min_score=2)
    every, _ = parsed("scores", SCORES)

    assert [(one.text, one.confidence) for one in found] == [("45.66.7.1", 100)]
    assert codes == ["score"]
    assert [one.confidence for one in every] == [100, 50]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("[ipv4-addr:value = '45.66.7.1']", [(Kind.IP, "45.66.7.1")]),
        ("[ipv4-addr:value = '45.66.7.0/24']", [(Kind.CIDR, "45.66.7.0/24")]),
        ("[ipv4-addr:value ISSUBSET '45.66.7.0/24']", [(Kind.CIDR, "45.66.7.0/24")]),
        ("[domain-name:value = 'it\\'s AND x']", [(Kind.DOMAIN, "it's AND x")]),
        ("[domain-name:value IN ('a.example', 'b.example')]", [(Kind.DOMAIN, "a.example"), (Kind.DOMAIN, "b.example")]),
        (
            "[domain-name:value = 'a.example'] OR [url:value = 'http://b.example/']",
            [(Kind.DOMAIN, "a.example"), (None, "http://b.example/")],
        ),
        (f"[file:hashes.'SHA-256' = '{HASH}' AND file:hashes.MD5 = 'aa']", [(Kind.SHA256, HASH)]),
        ("[network-traffic:dst_ref.value = '45.66.7.1' AND network-traffic:dst_port = 443]",
            [(Kind.IP, "45.66.7.1:443")],
        ),
    ],
)  # fmt: skip
def test_a_pattern_of_one_observable_or_alternatives_is_read(pattern: str, wanted: list[tuple[Kind, str]]) -> None:
    assert observables(pattern) == wanted


@pytest.mark.parametrize(
    "pattern",
    [
        "[ipv4-addr:value = '1.1.1.1' AND domain-name:value = 'a.example']",
        "[ipv4-addr:value = '1.1.1.1'] AND [domain-name:value = 'a.example']",
        "[ipv4-addr:value = '1.1.1.1'] FOLLOWEDBY [domain-name:value = 'a.example']",
        "[ipv4-addr:value = '1.1.1.1'] REPEATS 5 TIMES",
        "[ipv4-addr:value NOT = '1.1.1.1']",
        "[domain-name:value LIKE '%.example']",
        "[file:hashes.MD5 = 'aa']",
        "[file:name = 'x']",
        "[EXISTS domain-name:value]",
        f"[EXISTS file:parent_directory_ref AND file:hashes.'SHA-256' = '{HASH}']",
        "no pattern",
    ],
)
def test_a_pattern_that_no_entry_can_say_is_refused(pattern: str) -> None:
    try:
        parts = observables(pattern)
    except Dropped:
        return
    assert parts
    assert all(isinstance(part, Dropped) for part in parts)


def test_an_alternative_that_cannot_be_said_leaves_the_others() -> None:
    first, second = observables(f"[file:hashes.MD5 = 'aa' OR file:hashes.'SHA-256' = '{HASH}']")

    assert isinstance(first, Dropped)
    assert second == (Kind.SHA256, HASH)


def stix(**fields: object) -> dict[str, object]:
    return {"type": "indicator", "id": "indicator--1", "pattern": "[domain-name:value = 'a.example']"} | fields


def test_a_stix_bundle_gives_indicators_with_what_they_say() -> None:
    objects = [
        {"type": "malware", "name": "X"},
        stix(name="X C2", confidence=80, valid_until="2040-01-01T00:00:00Z", external_references=[{"url": "https://x"}]),
        stix(revoked=True), stix(pattern_type="yara"), stix(indicator_types=["benign"]),
    ]  # fmt: skip
    document = FORMATS["stix"].document
    assert document is not None

    parts = [part for _, _, part in document(json.dumps({"type": "bundle", "objects": objects}).encode())]

    assert parts[0] is None
    assert parts[1] == [Found("a.example", Kind.DOMAIN, None, 80, 2208988800, "X C2", "https://x")]
    codes = [one.code for part in parts[2:] for one in part or () if isinstance(one, Dropped)]
    assert codes == ["revoked", "pattern", "benign"]


@pytest.mark.parametrize("shape", [{"objects": [stix()]}, [stix()]], ids=["page of a server", "list"])
def test_stix_objects_are_taken_without_a_bundle_around_them(shape: object) -> None:
    document = FORMATS["stix"].document
    assert document is not None

    (part,) = [part for _, _, part in document(json.dumps(shape).encode())]

    assert part == [Found("a.example", Kind.DOMAIN)]


def test_a_page_that_others_follow_says_so() -> None:
    document = FORMATS["stix"].document
    assert document is not None

    parts = [
        one for _, _, part in document(json.dumps({"more": True, "objects": [stix()]}).encode()) for one in part or ()
    ]

    assert [one.code for one in parts if isinstance(one, Dropped)] == ["page"]
    assert len(parts) == 2


def test_an_end_that_cannot_be_read_is_not_none() -> None:
    document = FORMATS["stix"].document
    assert document is not None

    (part,) = [part for _, _, part in document(json.dumps([stix(valid_until="soon")]).encode())]

    assert [one.code for one in part or () if isinstance(one, Dropped)] == ["malformed"]


def attribute(type_: str, value: str, **fields: object) -> dict[str, object]:
    return {"type": type_, "value": value, "to_ids": True} | fields


MISP_EVENT = {
    "info": "campaign",
    "Attribute": [
        attribute("ip-dst|port", "45.66.7.1|443", comment="c2"), attribute("domain|ip", "a.example|45.66.7.2"),
        attribute("ip-src", "45.66.7.0/24"), attribute("domain", "b.example", to_ids=False),
        attribute("md5", "aa"), attribute("comment", "x"), attribute("domain", "c.example", deleted=True),
    ],
    "Object": [{"name": "file", "Attribute": [attribute("filename|sha256", f"x.exe|{HASH}", to_ids="1")]}],
}  # fmt: skip


@pytest.mark.parametrize(
    "shape",
    [{"Event": MISP_EVENT}, {"response": [{"Event": MISP_EVENT}]}, [{"Event": MISP_EVENT}]],
    ids=["event", "response", "list"],
)
def test_misp_gives_what_is_for_detection_in_every_shape(shape: object) -> None:
    document = FORMATS["misp"].document
    assert document is not None

    parts = [one for _, _, part in document(json.dumps(shape).encode()) for one in part or ()]

    assert [(one.kind, one.text) for one in parts if isinstance(one, Found)] == [
        (Kind.IP, "45.66.7.1:443"), (Kind.DOMAIN, "a.example"), (Kind.IP, "45.66.7.2"), (Kind.CIDR, "45.66.7.0/24"),
        (Kind.SHA256, HASH),
    ]  # fmt: skip
    assert isinstance(parts[0], Found)
    assert parts[0].reason == "c2, campaign"
    assert [one.code for one in parts if isinstance(one, Dropped)] == ["to_ids", "hash", "unsupported", "revoked"]


def test_a_bar_in_the_name_of_a_file_or_in_a_url_parts_nothing() -> None:
    document = FORMATS["misp"].document
    assert document is not None
    data = {"Attribute": [attribute("filename|sha256", f"a|b.exe|{HASH}"), attribute("url", "http://x|y@a.example/")]}

    parts = [one for _, _, part in document(json.dumps(data).encode()) for one in part or ()]

    assert [one.text for one in parts if isinstance(one, Found)] == [HASH, "http://x|y@a.example/"]


def test_a_damaged_part_of_a_document_leaves_the_others() -> None:
    stix_data = {"type": "bundle", "objects": [{"type": 3}, stix(), stix(confidence="high")]}
    misp_data = {"Attribute": [attribute("domain", "a.example", to_ids=[]), attribute("domain", "b.example")]}

    for name, data, wanted in (("stix", stix_data, [1, 0, 1]), ("misp", misp_data, [1, 0])):
        document = FORMATS[name].document
        assert document is not None
        parts = [part or [] for _, _, part in document(json.dumps(data).encode())]
        found = [sum(isinstance(one, Dropped) and one.code == "malformed" for one in part) for part in parts]
        assert found == wanted


def test_brackets_without_end_are_one_dropped_pattern() -> None:
    pattern = "[" + "(" * 3000 + "ipv4-addr:value = '45.66.7.1'" + ")" * 3000 + "]"
    with pytest.raises(Dropped, match="cannot be read"):
        observables(pattern)


def test_a_nul_byte_makes_a_value_no_address_and_no_fault() -> None:
    with pytest.raises(ConfigInvalid):
        list(canonical_values("evil\0.example", None))


@pytest.mark.parametrize("name", ["stix", "misp"])
@pytest.mark.parametrize("data", [b"", b"[", b'{"type": 1}', b"[[[[", b'{"objects": 3}', b"\xff\xfe"])
def test_a_broken_document_is_refused_and_not_a_fault(name: str, data: bytes) -> None:
    document = FORMATS[name].document
    assert document is not None

    with suppress(ConfigInvalid):
        assert all(part is None for _, _, part in document(data))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (URLHAUS, "urlhaus"), (THREATFOX, "threatfox"), (BAZAAR, "bazaar"), (FEODO, "feodo"), (DROP, "drop"),
        (NETSET, "netset"), (HOSTS, "hosts"), (ADBLOCK, "adblock"), (HSB, "clamav"), (SCORES, "scores"),
        ("kind,value\nip,45.66.7.1\n", "csv"), ('# x\n"Value", "kind"\n', "csv"),
        ('\n{"cidr": "45.66.8.0/22"}', "drop"), ("# x\nbad.example\n", "plain"), ("", "plain"),
        ('{"type": "bundle", "id": "bundle--1"}', "stix"), ('{"Event": {"info": ""}}', "misp"),
    ],
    ids=lambda value: value if isinstance(value, str) and value in FORMATS else "",
)  # fmt: skip
def test_a_format_is_recognized_by_its_first_lines(text: str, name: str) -> None:
    assert guess(text.splitlines()) == name


def test_json_of_nobody_is_not_guessed() -> None:
    with pytest.raises(ConfigInvalid, match="say the format"):
        guess(['{"a": 1}'])
