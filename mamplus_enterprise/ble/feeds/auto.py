# SPDX-License-Identifier: Apache-2.0
"""Which format a file has, by its first lines: what each of them looks like, the surest first."""

import re
from collections.abc import Sequence

from mamplus_enterprise.ble.feeds import table
from mamplus_enterprise.ble.feeds.text import without_comment
from mamplus_enterprise.ble.feeds.values import is_address, looks_like_address
from mamplus_host.errors import ConfigInvalid

_HSB = re.compile(r"[0-9a-fA-F]{32,64}:(\d+|\*):[^:]+(:\d+)?")
_CSV_MARKS = (
    ("threatfox", ("ioc_value", "ioc_type")), ("urlhaus", ("url_status", "urlhaus_link")),
    ("bazaar", ("sha256_hash", "md5_hash")), ("feodo", ("dst_ip", "dst_port")),
)  # fmt: skip


def guess(head: Sequence[str]) -> str:
    """Return the name of the format of a file that begins with the lines `head`; ConfigInvalid when none fits."""
    text = "\n".join(head)
    if name := _by_header(head, text):
        return name
    lines = [line for line in map(without_comment, head) if line and not line.startswith(("!", "["))]
    if not lines:
        return "plain"
    if _most(lines, lambda line: line.startswith(("||", "@@||"))):
        return "adblock"
    if _most(lines, lambda line: bool(_HSB.fullmatch(line))):
        return "clamav"
    if _most(lines, _is_hosts):
        return "hosts"
    if _most(lines, _is_scored):
        return "scores"
    return "netset" if _most(lines, looks_like_address) else "plain"


def _by_header(head: Sequence[str], text: str) -> str:
    first = next((line for line in head if line), "")
    if first.startswith(("{", "[")) and '"' in text:
        return _json(first, text)
    if table.header(head):
        return "csv"
    for line in head:
        for name, marks in _CSV_MARKS:
            if all(mark in line for mark in marks):
                return name
    return ""


def _json(first: str, text: str) -> str:
    if '"cidr"' in first:
        return "drop"
    if re.search(r'"type"\s*:\s*"bundle"', text) or '"spec_version"' in text:
        return "stix"
    if any(f'"{mark}"' in text for mark in ("Event", "Attribute", "to_ids", "response")):
        return "misp"
    raise ConfigInvalid("the file is JSON, but neither STIX, MISP nor Spamhaus DROP; say the format")


def _most(lines: Sequence[str], is_so: "object") -> bool:
    assert callable(is_so)
    return sum(bool(is_so(line)) for line in lines) * 10 >= len(lines) * 8


def _is_hosts(line: str) -> bool:
    words = line.split()
    return len(words) >= 2 and is_address(words[0]) and not words[1].isdigit()


def _is_scored(line: str) -> bool:
    words = line.split()
    return len(words) == 2 and is_address(words[0]) and words[1].isdigit()
