# SPDX-License-Identifier: Apache-2.0
"""What no list can block."""

import pytest

from mamplus_host.ble.entry import Entry, Kind, canonical
from mamplus_host.ble.guard import guards, is_guarded, names
from mamplus_host.errors import ConfigInvalid
from mamplus_host.verdicts import Verdict


def block(kind: Kind, text: str, verdict: Verdict = Verdict.BLOCK) -> Entry:
    return Entry(id=1, kind=kind, value=canonical(kind, text), verdict=verdict)


def test_the_way_to_the_enterprise_is_never_blocked() -> None:
    never = guards(["10.0.0.1", "2001:db8::1", "::ffff:10.0.0.1"], 8443)

    assert [(str(address), port) for address, port in never] == [("10.0.0.1", 8443), ("2001:db8::1", 8443)]
    assert is_guarded(block(Kind.IP, "10.0.0.1"), never)
    assert is_guarded(block(Kind.CIDR, "0.0.0.0/0"), never)
    assert is_guarded(block(Kind.CIDR, "2001:db8::/32"), never)
    assert is_guarded(block(Kind.DOMAIN, "mam.example"), never, "console.MAM.example.")
    assert is_guarded(block(Kind.DOMAIN, "=mam.example"), never, "mam.example")


def test_what_does_not_lead_to_the_enterprise_can_be_blocked() -> None:
    never = guards(["10.0.0.1"], 8443)

    assert not is_guarded(block(Kind.IP, "10.0.0.2"), never)
    assert not is_guarded(block(Kind.CIDR, "10.0.1.0/24"), never)
    assert not is_guarded(block(Kind.CIDR, "::/0"), never)
    assert not is_guarded(block(Kind.DOMAIN, "=mam.example"), never, "console.mam.example")
    assert not is_guarded(block(Kind.DOMAIN, "am.example"), never, "mam.example")
    assert not is_guarded(block(Kind.SHA256, "ab" * 32), never)
    assert not is_guarded(block(Kind.IP, "10.0.0.1", Verdict.ALLOW), never)


def test_the_guard_set_is_bounded_by_what_the_kernel_holds() -> None:
    assert len(guards([f"10.0.0.{n}" for n in range(64)], 1)) == 64
    with pytest.raises(ConfigInvalid, match="want at most 64"):
        guards([f"10.0.0.{n}" for n in range(65)], 1)


def test_a_named_enterprise_is_guarded_by_name_and_a_numbered_one_is_not() -> None:
    assert names("MAM.Corp.example.") == ("mam.corp.example",)
    assert names("10.0.0.1") == names("2001:db8::1") == names("localhost") == names("") == ()
