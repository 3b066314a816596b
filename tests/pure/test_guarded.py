# SPDX-License-Identifier: Apache-2.0
"""The programs without which there is no device: what a list cannot name, and what it can."""

import pytest

from mamplus_enterprise.ble.author import Draft
from mamplus_enterprise.ble.gate import Gate
from mamplus_enterprise.ble.never import Never
from mamplus_host.ble import guarded
from mamplus_host.ble.entry import Entry, Kind, canonical
from mamplus_host.ble.guard import is_guarded
from mamplus_host.errors import ConfigInvalid
from mamplus_host.verdicts import Verdict

COVERING = [
    "/lib/systemd/systemd", "/usr/lib/systemd/systemd", "/sbin/NetworkManager", "/usr/sbin/NetworkManager",
    "/usr/sbin/*", "/usr/**", "/**/wpa_supplicant", "/usr/bin/[a-e]pkg", "/usr/lib/systemd/systemd-log??d",
    "/usr/*/sshd", "/usr/bin/mamplus", "/usr/lib/xorg/Xorg", "/**/bluetoothd",
]  # fmt: skip
HARMLESS = [
    "/usr/bin/nc", "/home/*/**", "/tmp/**", "/home/a/NetworkManager", "/opt/**/systemd", "/usr/bin/[!a-z]pkg",
    "/usr/local/bin/*", "/usr/bin/??", "/var/lib/**/dpkg", "/usr/bin/dpkg-quer[y]",
]  # fmt: skip


@pytest.mark.parametrize("path", COVERING)
def test_no_entry_covers_a_program_of_the_set(path: str) -> None:
    value = canonical(Kind.PATH, path)

    refusal = Gate(Never(), None).ask(Kind.PATH, value).refusal
    with pytest.raises(ConfigInvalid, match="cannot be refused"):
        Draft(kind=Kind.PATH, value=value, verdict=Verdict.BLOCK)

    assert refusal is not None
    assert refusal.code == "never"
    assert is_guarded(Entry(id=1, kind=Kind.PATH, value=value, verdict=Verdict.SUSPECT), ())


@pytest.mark.parametrize("path", HARMLESS)
def test_other_programs_may_be_listed_whatever_they_are_called(path: str) -> None:
    value = canonical(Kind.PATH, path)

    assert Gate(Never(), None).ask(Kind.PATH, value).refusal is None
    assert Draft(kind=Kind.PATH, value=value, verdict=Verdict.BLOCK).value == value


def test_an_entry_that_allows_may_name_them() -> None:
    assert Draft(kind=Kind.PATH, value="/usr/bin/dpkg", verdict=Verdict.ALLOW).verdict is Verdict.ALLOW


@pytest.mark.parametrize("value", ["/opt/till/bin/till", "/opt/**", "/opt/till/bin/t?ll"])
def test_what_the_policy_spares_is_kept_off_the_list_too(value: str) -> None:
    gate = Gate(Never(programs=["/opt/till/bin/till"]), None)

    refusal = gate.ask(Kind.PATH, canonical(Kind.PATH, value)).refusal

    assert refusal is not None
    assert "actions.spared.programs" in refusal.reason


def test_a_unit_is_of_the_set_by_its_whole_name() -> None:
    assert guarded.unit_role("NetworkManager.service") == "radio"
    assert guarded.unit_role("getty@tty1.service") == "login"
    assert guarded.unit_role("evil-NetworkManager.service") == ""
    assert guarded.unit_role("till.service") == ""
