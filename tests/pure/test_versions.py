# SPDX-License-Identifier: Apache-2.0
"""Versions are ordered as dpkg and rpm order them, which are asked; ranges cover what they say."""

import random
import subprocess

import pytest

from mamplus_host.ble.entry import Kind, canonical
from mamplus_host.ble.versions import covers, narrowness, package_of, version_order
from mamplus_host.errors import ConfigInvalid

# Pairs that the sources of rpm's own test suite and Debian's policy single out.
_KNOWN = """
1.0 1.0, 1.0 2.0, 2.0.1 2.0.1, 2.0 2.0.1, 2.0.1a 2.0.1, 5.5p1 5.5p2, 5.5p10 5.5p1, 10xyz 10.1xyz,
xyz10 xyz10.1, xyz.4 8, 5.5p2 5.6p1, 6.0.rc1 6.0, 10b2 10a1, 1.0a 1.0aa, 10.0001 10.1, 10.0001 10.0039,
4.999.9 5.0, 20101121 20101122, 2_0 2.0, a a, a+ a_, 1.0~rc1 1.0, 1.0~rc1 1.0~rc2, 1.0~rc1~git123 1.0~rc1,
1.0^ 1.0, 1.0^git1 1.0, 1.0^git1 1.0^git2, 1.0^git1 1.01, 1.0^20160101 1.0.1, 1.0~rc1^git1 1.0~rc1,
1.0^git1~pre 1.0^git1, 1b.fc17 1.fc17, 1g.fc17 1.fc17, 1.000 1.0, 3.0.9-1 3.0.11-1~deb12u2, 1:1.0 2.0,
0:1.0 1.0, 1.0-1 1.0, 1.0-0 1.0, 1.0-1~x 1.0-1, 1.2.3-4-5 1.2.3-4
"""
KNOWN = [(one, two) for one, two in (pair.split() for pair in _KNOWN.split(","))]
ALPHABET = {"deb": "0019az.+~", "rpm": "0019az.+~^_"}


def pairs(scheme: str, count: int) -> list[tuple[str, str]]:
    """Versions that differ little: what tells two apart is mostly one character."""
    chance = random.Random(12)
    made = []
    for _ in range(count):
        one = "1" + "".join(chance.choice(ALPHABET[scheme]) for _ in range(chance.randrange(7)))
        at = chance.randrange(1, len(one) + 1)
        two = one[:at] + chance.choice(ALPHABET[scheme]) + one[at + chance.randrange(2) :]
        ends = [chance.choice(["", "-1", "-1~a", "-0", "-1.2"]) for _ in range(2)]
        made.append((chance.choice(["", "", "1:"]) + one + ends[0], chance.choice(["", "", "1:"]) + two + ends[1]))
    return made


def dpkg_order(one: str, two: str) -> int:
    def holds(relation: str) -> bool:
        return subprocess.run(["dpkg", "--compare-versions", one, relation, two], check=False).returncode == 0

    return -1 if holds("lt") else 0 if holds("eq") else 1


def rpm_orders(asked: list[tuple[str, str]]) -> list[int]:
    orders: list[int] = []
    for first in range(0, len(asked), 500):  # a command line is bounded
        lines = " ".join(f'print(rpm.vercmp("{one}", "{two}") .. " ")' for one, two in asked[first : first + 500])
        done = subprocess.run(["rpm", "--eval", f"%{{lua: {lines}}}"], check=True, capture_output=True, text=True)
        orders += map(int, done.stdout.split())
    return orders


def test_debian_versions_are_ordered_as_dpkg_orders_them() -> None:
    known = [pair for pair in KNOWN if "^" not in "".join(pair) and "_" not in "".join(pair) and pair[0][0].isdigit()]
    for one, two in known + pairs("deb", 300):
        assert version_order("deb", one, two) == dpkg_order(one, two), (one, two)


def test_rpm_versions_are_ordered_as_rpm_orders_them() -> None:
    def whole(text: str) -> str:  # with a release on both sides: without one a bound takes every release
        return text if "-" in text else f"{text}-1"

    asked = [(whole(one), whole(two)) for one, two in KNOWN + pairs("rpm", 3000)]
    wanted = rpm_orders(asked)

    assert len(wanted) == len(asked)
    for (one, two), order in zip(asked, wanted, strict=True):
        assert version_order("rpm", one, two) == order, (one, two)
        assert version_order("rpm", two, one) == -order, (two, one)


@pytest.mark.parametrize(
    ("entry", "asked", "is_covered"),
    [
        ("deb:openssl", "deb:openssl=3.0.9-1", True),
        ("deb:openssl", "deb:openssl", True),
        ("deb:openssl<3.0.11-1~deb12u2", "deb:openssl=3.0.9-1", True),
        ("deb:openssl<3.0.11-1~deb12u2", "deb:openssl=3.0.11-1~deb12u1", True),
        ("deb:openssl<3.0.11-1~deb12u2", "deb:openssl=3.0.11-1~deb12u2", False),
        ("deb:openssl<=3.0.11-1~deb12u2", "deb:openssl=3.0.11-1~deb12u2", True),
        ("deb:openssl<3.0.11-1~deb12u2", "deb:openssl", False),
        ("deb:openssl=3.0.9-1", "deb:openssl=0:3.0.9-1", True),
        ("rpm:openssl>=1:3.0,<1:3.0.7-24", "rpm:openssl=1:3.0.7-18.el9", True),
        ("rpm:openssl>=1:3.0,<1:3.0.7-24", "rpm:openssl=1:3.0.7-24", False),
        ("rpm:openssl>=1:3.0,<1:3.0.7-24", "rpm:openssl=3.0.7-18", False),
        ("rpm:kernel<=5.14", "rpm:kernel=5.14-70", True),
        ("rpm:kernel<5.14", "rpm:kernel=5.14-70", False),
        ("rpm:kernel>5.14", "rpm:kernel=5.14-70", False),
        ("rpm:kernel=5.14", "rpm:kernel=5.14-70", True),
    ],
)
def test_what_a_range_covers(entry: str, asked: str, is_covered: bool) -> None:
    assert covers(package_of(canonical(Kind.PACKAGE, entry)), package_of(canonical(Kind.PACKAGE, asked))) is is_covered


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("deb:OpenSSL < 3.0.11-1~deb12u2", "deb:openssl<3.0.11-1~deb12u2"),
        ("deb:openssl << 3", "deb:openssl<3"),
        ("rpm:openssl<1:3.0.7-24,>=1:3.0", "rpm:openssl>=1:3.0,<1:3.0.7-24"),
        ("deb:openssl>=3,<=3", "deb:openssl=3"),
        ("deb:openssl=00:3", "deb:openssl=3"),
        ("rpm:NetworkManager", "rpm:NetworkManager"),
    ],
)
def test_many_spellings_become_one(text: str, wanted: str) -> None:
    assert canonical(Kind.PACKAGE, text) == wanted
    assert canonical(Kind.PACKAGE, wanted) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "openssl", "apk:openssl", "deb:", "deb:o", "deb:openssl<", "deb:openssl<x", "deb:openssl<1-",
        "deb:openssl<3,<4", "deb:openssl>=4,<3", "deb:openssl>3,<3", "deb:libc6:amd64=2", "deb:openssl=1:",
        "rpm:a=1-2-3", "rpm:a<1,>0,=2",
    ],
)  # fmt: skip
def test_what_is_no_package_is_refused_with_what_was_wanted(text: str) -> None:
    with pytest.raises(ConfigInvalid, match="want one like deb:openssl"):
        canonical(Kind.PACKAGE, text)


def test_one_version_is_narrower_than_a_range_and_a_range_than_the_name() -> None:
    ordered = ["deb:aa=1", "deb:aa>1,<2", "deb:aa<2", "deb:aa"]

    assert sorted(ordered, key=lambda text: -narrowness(package_of(text))) == ordered
