# SPDX-License-Identifier: Apache-2.0
"""Radios go off and come back as they were: simulated ones of the kernel where it has rfkill, managers over D-Bus."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.actions.radio import Radio
from mamplus_host.executor.network import roads
from mamplus_host.executor.session import bus
from mamplus_host.executor.shape import State
from tests.kernel.buses import Bus, wait_for
from tests.kernel.cut import each_cut

pytestmark = pytest.mark.kernel
ID = "01JD0000000000000000000000-radio"
NM = ("org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager", "org.freedesktop.NetworkManager")
HCI = ("org.bluez", "/org/bluez/hci0", "org.bluez.Adapter1")
NO_SYS = Path("/nowhere")


@pytest.fixture
def managers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    """A bus with a NetworkManager (mobile data off) and a BlueZ with one adapter."""
    made = Bus(tmp_path / "bus")
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", made.address)
    try:
        made.mock("networkmanager", NM[0])
        made.mock("bluez5", HCI[0])
        made.ask(bus.Call("org.bluez", "/org/bluez", "org.bluez.Mock", "AddAdapter", "ss", ("hci0", "device")))
        yield made
    finally:
        made.close()


@pytest.fixture
def real_radios() -> Iterator[None]:
    """A simulated Wi-Fi card and Bluetooth controller; only in a virtual machine, where they are nobody's."""
    if "MAMPLUS_VM" not in os.environ:
        pytest.skip("this machine's own kernel gets no simulated radios: make vm")
    subprocess.run(["modprobe", "mac80211_hwsim", "radios=1"], check=True)
    wait_for(lambda: any(Path("/sys/class/rfkill").glob("rfkill*")))
    yield
    subprocess.run(["ip", "link", "set", "wlan0", "down"], check=False)
    subprocess.run(["rmmod", "mac80211_hwsim"], check=True)


def no_enterprise() -> list[str]:
    return []


def without_kernel() -> Radio:
    return Radio(no_enterprise, sys_root=NO_SYS)


def powered(managers: Bus) -> tuple[bool, bool, bool]:
    """Wi-Fi, mobile data, Bluetooth, as their managers say."""
    said = managers.get(*NM)
    return said["WirelessEnabled"], said["WwanEnabled"], managers.get(*HCI)["Powered"]


def test_managers_are_asked_and_each_radio_comes_back_as_it_was(managers: Bus) -> None:
    deed, before = without_kernel(), powered(managers)
    assert before == (True, False, True)
    facts = deed.prepare(ID, {})
    assert deed.verify(facts) is State.UNDONE

    deed.do(facts)
    assert powered(managers) == (False, False, False)
    assert deed.verify(facts) is State.DONE

    deed.undo(facts)
    assert powered(managers) == before
    assert deed.verify(facts) is State.UNDONE


def test_one_kind_of_radio_leaves_the_others(managers: Bus) -> None:
    deed = without_kernel()
    deed.do(deed.prepare(ID, {"radios": ["bluetooth"]}))
    assert powered(managers) == (True, False, False)
    with pytest.raises(ActionFailed, match="off already"):
        deed.prepare(ID, {"radios": ["bluetooth"]})
    with pytest.raises(ActionFailed, match="no radio"):
        deed.prepare(ID, {"radios": ["nfc"]})
    with pytest.raises(ActionFailed, match="'lamp' is no radio"):
        deed.prepare(ID, {"radios": ["lamp"]})


@pytest.mark.parametrize("way", ["do", "undo"])
def test_a_power_cut_between_two_radios_can_be_finished_and_undone(managers: Bus, way: str) -> None:
    deed, before = without_kernel(), powered(managers)
    facts = deed.prepare(ID, {})

    def ready() -> Callable[[], object]:
        deed.undo(facts) if way == "do" else deed.do(facts)
        return lambda: deed.do(facts) if way == "do" else deed.undo(facts)

    for at in each_cut(ready):
        deed.do(facts)
        assert deed.verify(facts) is State.DONE, f"after a cut at step {at}"
        deed.undo(facts)
        assert powered(managers) == before


def test_a_manager_that_went_away_does_not_keep_the_others_from_coming_back(managers: Bus) -> None:
    deed = without_kernel()
    facts = deed.prepare(ID, {})
    deed.do(facts)
    managers.ask(bus.Call("org.bluez", "/org/bluez", "org.bluez.Mock", "RemoveAdapter", "s", ("hci0",)))

    deed.undo(facts)

    assert managers.get(*NM)["WirelessEnabled"] is True
    assert deed.verify(facts) is State.UNDONE


def test_radios_that_were_off_before_do_not_look_switched_off(managers: Bus) -> None:
    deed = without_kernel()
    facts = deed.prepare(ID, {})
    deed.do(facts)
    managers.ask(bus.Call("org.bluez", "/org/bluez", "org.bluez.Mock", "RemoveAdapter", "s", ("hci0",)))
    facts["switches"] = [one for one in facts["switches"] if one["kind"] != "wlan"]  # mobile data was off before
    deed.undo(facts)
    assert deed.verify(facts) is State.UNDONE


@pytest.mark.usefixtures("managers")
def test_a_manager_that_refuses_is_an_outcome_that_says_so() -> None:
    deed = without_kernel()
    facts = deed.prepare(ID, {"radios": ["wlan"]})
    facts["switches"][0]["property"] = "NoSuchProperty"
    with pytest.raises(ActionFailed, match="NetworkManager does not switch wlan"):
        deed.do(facts)


class Tree:
    """A sysfs as the kernel makes it, with one Wi-Fi interface that is up."""

    def __init__(self, root: Path) -> None:
        self.root = root
        radio = root / "class/rfkill/rfkill0"
        radio.mkdir(parents=True)
        for name, said in {"type": "wlan", "name": "phy0", "soft": "0", "hard": "0", "index": "0"}.items():
            (radio / name).write_text(said + "\n")
        self.interface("wlan0", "wlan")

    def interface(self, name: str, kind: str, state: str = "up") -> None:
        place = self.root / "class/net" / name
        place.mkdir(parents=True)
        (place / "uevent").write_text(f"DEVTYPE={kind}\nINTERFACE={name}\n" if kind else f"INTERFACE={name}\n")
        (place / "operstate").write_text(state + "\n")


def test_the_only_road_to_the_enterprise_stays_unless_the_policy_means_it_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(tmp_path)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus")
    routes = {"wlan0"}
    monkeypatch.setattr(roads, "_devices", lambda *words: routes if "get" in words else set())
    deed = Radio(lambda: ["192.0.2.1"], sys_root=tmp_path)

    with pytest.raises(ActionFailed, match="wlan0 is the only road"):
        deed.prepare(ID, {"radios": ["wlan"]})
    with pytest.raises(ActionFailed, match="ttl_s"):
        deed.prepare(ID, {"radios": ["wlan"], "last_road": True})
    assert deed.prepare(ID, {"radios": ["wlan"], "last_road": True, "ttl_s": 600})["switches"]

    tree.interface("eth0", "")
    routes.add("eth0")
    assert deed.prepare(ID, {"radios": ["wlan"]})["switches"][0]["index"] == 0


def test_a_radio_that_is_unplugged_is_not_confused_with_the_next_of_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Tree(tmp_path)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus")
    switch = tmp_path / "rfkill"
    switch.write_bytes(b"")
    deed = Radio(no_enterprise, sys_root=tmp_path, device=switch)
    facts = deed.prepare(ID, {})
    (tmp_path / "class/rfkill/rfkill0/name").write_text("phy7\n")

    deed.do(facts)

    assert switch.read_bytes() == b"", "another radio was switched"
    deed.undo(facts)
    assert deed.verify(facts) is State.UNDONE, "what is unplugged could never be undone"


@pytest.mark.usefixtures("real_radios")
def test_real_routes_say_which_interface_leads_there() -> None:
    subprocess.run(["ip", "link", "set", "wlan0", "up"], check=True)
    subprocess.run(["ip", "link", "add", "mpdummy", "type", "dummy"], check=True)
    try:
        subprocess.run(["ip", "address", "add", "192.0.2.2/24", "dev", "mpdummy"], check=True)
        subprocess.run(["ip", "link", "set", "mpdummy", "up"], check=True)
        assert roads.interfaces(["192.0.2.1"]) == {"mpdummy"}
        assert roads.kind_of("wlan0") == "wlan"
        assert roads.kind_of("mpdummy") == ""
    finally:
        subprocess.run(["ip", "link", "delete", "mpdummy"], check=True)


def soft(kind: str = "wlan") -> list[str]:
    found = [one for one in Path("/sys/class/rfkill").glob("rfkill*") if (one / "type").read_text().strip() == kind]
    return [(one / "soft").read_text().strip() for one in found]


@pytest.mark.usefixtures("real_radios")
def test_the_kernels_own_switch_goes_off_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus")
    deed = Radio(no_enterprise)
    facts = deed.prepare(ID, {"radios": ["wlan"]})
    assert soft() == ["0"]

    deed.do(facts)
    assert soft() == ["1"]
    assert deed.verify(facts) is State.DONE
    refused = subprocess.run(["ip", "link", "set", "wlan0", "up"], capture_output=True, text=True, check=False)
    assert "RF-kill" in refused.stderr

    deed.undo(facts)
    assert soft() == ["0"]
    assert deed.verify(facts) is State.UNDONE
    subprocess.run(["ip", "link", "set", "wlan0", "up"], check=True)


@pytest.mark.usefixtures("real_radios")
def test_a_power_cut_before_the_kernels_switch_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus")
    deed = Radio(no_enterprise)
    facts: dict[str, Any] = deed.prepare(ID, {"radios": ["wlan"]})

    def ready() -> Callable[[], object]:
        deed.undo(facts)
        return lambda: deed.do(facts)

    for _at in each_cut(ready):
        assert soft() == ["0"]
        deed.do(facts)
        assert soft() == ["1"]
    deed.undo(facts)
