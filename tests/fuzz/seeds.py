# SPDX-License-Identifier: Apache-2.0
"""Real lists, and deltas to them, for the fuzzer to begin with: `python seeds.py FOLDER`."""

import struct
import sys
from pathlib import Path

from mamplus_host.ble.encode import encode, encode_delta, withdrawal
from mamplus_host.ble.entry import Entry, Kind, canonical
from mamplus_host.ble.format import Generation
from mamplus_host.verdicts import Verdict

LINES = [
    (Kind.SHA256, "ab" * 32), (Kind.IP, "203.0.113.7"), (Kind.IP, "2001:db8::7"), (Kind.IP, "203.0.113.8:443/tcp"),
    (Kind.CIDR, "203.0.113.0/24"), (Kind.CIDR, "[2001:db8::/32]:53/udp"), (Kind.PORT, "23"),
    (Kind.DOMAIN, "bad.example"), (Kind.DOMAIN, "=bad.example"), (Kind.PATH, "/usr/bin/nc"),
    (Kind.PATH, "/home/*/.cache/**"), (Kind.PATH, "/opt/**/[a-f]?x"), (Kind.PACKAGE, "deb:openssl<3.0.11-1~deb12u2"),
    (Kind.PACKAGE, "rpm:openssl>=1:3.0,<1:3.0.7-24"), (Kind.USER, "eve"), (Kind.GROUP, "gid:27"),
    (Kind.USB, "0781:5581:ABC"), (Kind.TLS, "cd" * 32), (Kind.YARA, "rule a { condition: true }"),
    (Kind.SIGMA, "detection: {}"),
]  # fmt: skip
VERDICTS = (Verdict.BLOCK, Verdict.SUSPECT, Verdict.ALLOW)


def entries(lines: list[tuple[Kind, str]], first: int) -> list[Entry]:
    return [
        Entry(
            id=n,
            kind=kind,
            value=canonical(kind, value),
            verdict=VERDICTS[n % 3],
            reason="r" * (n % 4),
            valid_until=n % 5,
        )
        for n, (kind, value) in enumerate(lines, first)
    ]


def pairs() -> list[tuple[bytes, bytes]]:
    """Return lists of every kind, of each kind alone, of many addresses, and none at all; each with a delta."""
    many = [(Kind.IP, f"10.0.{n}.{n}") for n in range(60)]
    made = []
    for lines in (LINES, many, [], *([line] for line in LINES), LINES[::2], LINES[1::2]):
        base = encode(entries(lines, 1), generation=7, created_s=100)
        changes = [withdrawal(kind, canonical(kind, value)) for kind, value in lines[:3]]
        changes += entries([*lines[3:5], (Kind.IP, "192.0.2.1"), (Kind.PATH, "/srv/*")], 100)
        made.append((base, encode_delta(changes, [Generation(base)], generation=9, created_s=101)))
    return made


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (base, delta) in enumerate(pairs()):
        (folder / f"seed-{number}").write_bytes(struct.pack("<I", len(base)) + base + delta)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
