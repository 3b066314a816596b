# SPDX-License-Identifier: Apache-2.0
"""USB devices lose their authorization and get it back: in a tree like sysfs, and behind dummy_hcd in the VM."""

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.actions.usb import Usb
from mamplus_host.executor.network import roads
from mamplus_host.executor.shape import State
from mamplus_host.executor.storage import mounts
from tests.kernel.buses import wait_for
from tests.kernel.cut import each_cut

pytestmark = pytest.mark.kernel
ID = "01JD0000000000000000000000-usb"
DEVICES = Path("/sys/bus/usb/devices")


class Tree:
    """A sysfs with two buses, and a stick at 1-2 with one partition that is a file system."""

    def __init__(self, root: Path) -> None:
        self.root, self.devices, self.mounts = root, root / "bus/usb/devices", root / "mountinfo"
        for name in ("usb1", "usb2"):
            self._write(self.devices / name, authorized="1", authorized_default="1")
        self.stick = root / "devices/pci/usb1/1-2"
        self._write(self.stick, authorized="1", idVendor="0781", idProduct="5567", serial="S1", devnum="4")
        (self.devices / "1-2").symlink_to(self.stick)
        disk = self.stick / "host/block/sdb/sdb1"
        disk.mkdir(parents=True)
        (root / "dev/block").mkdir(parents=True)
        (root / "dev/block/8:17").symlink_to(disk)
        self.mount("/media/stick")

    def _write(self, place: Path, **files: str) -> None:
        place.mkdir(parents=True)
        for name, text in files.items():
            (place / name).write_text(text + "\n")

    def mount(self, point: str, device: str = "8:17", kind: str = "ext4") -> None:
        self.mounts.write_text(f"36 35 {device} / {point} rw - {kind} /dev/sdb1 rw\n")

    def now(self, name: str = "1-2", file: str = "authorized") -> str:
        return (self.devices / name / file).read_text().strip()

    def deed(self) -> Usb:
        return Usb(lambda: [], sys_root=self.root, mounts=self.mounts)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_device_is_not_authorized_any_more_and_undo_brings_its_old_state_back(tree: Tree) -> None:
    deed = tree.deed()
    facts = deed.prepare(ID, {"device": "1-2"})
    assert deed.verify(facts) is State.UNDONE

    assert "0781:5567:S1" in deed.do(facts)
    assert tree.now() == "0"
    assert deed.verify(facts) is State.DONE

    deed.undo(facts)
    assert tree.now() == "1"
    assert deed.verify(facts) is State.UNDONE


def test_the_device_that_a_file_lies_on_is_found_by_its_mount(tree: Tree) -> None:
    facts = tree.deed().prepare(ID, {"file": "/media/stick/deep/tool"})
    assert [one["name"] for one in facts["switches"]] == ["1-2"]
    with pytest.raises(ActionFailed, match="lies on no USB device"):
        tree.deed().prepare(ID, {"file": "/home/ada/tool"})
    with pytest.raises(ActionFailed, match="lies on no USB device"):
        tree.deed().prepare(ID, {"file": "/media/stick/../../home/ada/tool"})


def test_the_device_of_a_medium_is_found_wherever_it_is_mounted(tree: Tree) -> None:
    tree.mount("/media/other", "8:33")  # process 1 does not see the medium: it is mounted in another namespace
    facts = tree.deed().prepare(ID, {"medium": "8:17", "path": "/media/other/tool"})
    assert [one["name"] for one in facts["switches"]] == ["1-2"]
    with pytest.raises(ActionFailed, match="device 0:41 lies on no USB device"):
        tree.deed().prepare(ID, {"medium": "0:41", "path": "/media/stick/tool"})


@pytest.fixture
def btrfs(tree: Tree) -> Tree:
    """The stick is one of two devices of a btrfs, which has a number of its own; its source is the other one."""
    inner = tree.root / "devices/pci/ata1/block/sda"
    inner.mkdir(parents=True)
    (tree.root / "dev/block/8:1").symlink_to(inner)
    (tree.root / "root/dev").mkdir(parents=True)
    os.mknod(tree.root / "root/dev/sdb1", stat.S_IFBLK | 0o600, os.makedev(8, 1))
    members = tree.root / "fs/btrfs/6a0f/devices"
    members.mkdir(parents=True)
    for name, place in (("sda", inner), ("sdb1", tree.stick / "host/block/sdb/sdb1")):
        (members / name).symlink_to(place)
    return tree


def test_a_stick_with_btrfs_is_found_by_the_number_that_no_device_has(btrfs: Tree) -> None:
    btrfs.mount("/media/stick", "0:41", "btrfs")
    for target in ({"medium": "0:41"}, {"file": "/media/stick/deep/tool"}):
        assert [one["name"] for one in btrfs.deed().prepare(ID, dict(target))["switches"]] == ["1-2"]


def test_what_the_system_lies_on_stays_also_with_btrfs(btrfs: Tree) -> None:
    btrfs.mount("/home", "0:41", "btrfs")
    with pytest.raises(ActionFailed, match="'/home' lies on USB device '1-2'"):
        btrfs.deed().prepare(ID, {"device": "1-2"})


def test_what_names_a_stick_as_its_source_does_not_lie_there(btrfs: Tree) -> None:
    btrfs.mount("/media/stick", "0:41", "fuse")
    with pytest.raises(ActionFailed, match="device 0:41 lies on no USB device"):
        btrfs.deed().prepare(ID, {"medium": "0:41"})


def test_new_devices_are_refused_on_every_bus_and_each_bus_gets_its_own_default_back(tree: Tree) -> None:
    (tree.devices / "usb2/authorized_default").write_text("2\n")
    deed = tree.deed()
    facts = deed.prepare(ID, {"new": True})
    deed.do(facts)
    assert [tree.now(name, "authorized_default") for name in ("usb1", "usb2")] == ["0", "0"]
    deed.undo(facts)
    assert [tree.now(name, "authorized_default") for name in ("usb1", "usb2")] == ["1", "2"]


@pytest.mark.parametrize("way", ["do", "undo"])
def test_a_power_cut_between_two_buses_can_be_finished_and_undone(tree: Tree, way: str) -> None:
    deed = tree.deed()
    facts = deed.prepare(ID, {"new": True})

    def ready() -> Callable[[], object]:
        deed.undo(facts) if way == "do" else deed.do(facts)
        return lambda: deed.do(facts) if way == "do" else deed.undo(facts)

    states = []
    for _at in each_cut(ready):
        states.append(deed.verify(facts))
        deed.do(facts)
        assert deed.verify(facts) is State.DONE
        deed.undo(facts)
        assert deed.verify(facts) is State.UNDONE
    assert State.BETWEEN in states


def test_what_the_system_lies_on_stays(tree: Tree) -> None:
    tree.mount("/var")
    with pytest.raises(ActionFailed, match="'/var' lies on USB device '1-2'"):
        tree.deed().prepare(ID, {"device": "1-2"})


def test_what_the_system_lies_on_stays_also_through_luks(tree: Tree) -> None:
    mapped = tree.root / "devices/virtual/block/dm-0"
    (mapped / "slaves").mkdir(parents=True)
    (mapped / "slaves/sdb1").symlink_to(tree.stick / "host/block/sdb/sdb1")
    (tree.root / "dev/block/254:0").symlink_to(mapped)
    tree.mount("/", "254:0")
    with pytest.raises(ActionFailed, match="'/' lies on"):
        tree.deed().prepare(ID, {"device": "1-2"})


def test_the_only_road_to_the_enterprise_stays(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    interface = tree.stick / "net/usb0"
    interface.mkdir(parents=True)
    (interface / "operstate").write_text("up\n")
    (tree.root / "class/net").mkdir(parents=True)
    (tree.root / "class/net/usb0").symlink_to(interface)
    monkeypatch.setattr(roads, "_devices", lambda *_words: {"usb0"})
    with pytest.raises(ActionFailed, match="only road"):
        tree.deed().prepare(ID, {"device": "1-2"})


@pytest.mark.parametrize("name", ["", "1-3", "usb1", "../1-2", "1-2/authorized"])
def test_what_is_no_device_is_refused(tree: Tree, name: str) -> None:
    with pytest.raises(ActionFailed):
        tree.deed().prepare(ID, {"device": name})


def test_another_device_that_was_plugged_in_there_is_left_alone(tree: Tree) -> None:
    deed = tree.deed()
    facts = deed.prepare(ID, {"device": "1-2"})
    deed.do(facts)
    (tree.stick / "serial").write_text("S2\n")
    deed.undo(facts)
    assert tree.now() == "0"
    assert deed.verify(facts) is State.UNDONE, "what is unplugged could never be undone"


@pytest.fixture
def gadget() -> Iterator[str]:
    """A real USB device of the kernel's own making: a serial gadget behind dummy_hcd, in the VM alone."""
    if "MAMPLUS_VM" not in os.environ:
        pytest.skip("this machine's own kernel gets no simulated USB devices: make vm")
    subprocess.run(["modprobe", "dummy_hcd"], check=True)
    subprocess.run(["modprobe", "g_serial"], check=True)
    wait_for(lambda: list(DEVICES.glob("*-1/idVendor")))
    yield next(DEVICES.glob("*-1/idVendor")).parent.name
    subprocess.run(["rmmod", "g_serial", "dummy_hcd"], check=False)


def test_a_real_device_loses_its_drivers_and_gets_them_back(gadget: str) -> None:
    place = DEVICES / gadget
    wait_for(lambda: list(place.glob("*:*")))
    deed = Usb(lambda: [])
    facts = deed.prepare(ID, {"device": gadget})

    deed.do(facts)
    assert list(place.glob("*:*")) == [], "its interfaces are still there"
    assert deed.verify(facts) is State.DONE

    deed.undo(facts)
    wait_for(lambda: list(place.glob("*:*")))
    assert deed.verify(facts) is State.UNDONE


@pytest.fixture
def stick(tmp_path: Path) -> Iterator[Path]:
    """A real USB stick with a btrfs, mounted: a mass storage gadget behind dummy_hcd, in the VM alone."""
    if "MAMPLUS_VM" not in os.environ:
        pytest.skip("this machine's own kernel gets no simulated USB devices: make vm")
    image, point, made = tmp_path / "image", tmp_path / "stick", Path("/sys/kernel/config/usb_gadget/stick")
    with image.open("wb") as file:
        file.truncate(128 << 20)
    point.mkdir()
    script = f"""
    mkfs.btrfs -q {image}
    modprobe -a dummy_hcd libcomposite usb_f_mass_storage usb-storage sd_mod btrfs
    mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
    mkdir -p {made}/configs/c.1 {made}/functions/mass_storage.0
    echo 0x0781 >{made}/idVendor; echo 0x5567 >{made}/idProduct
    echo {image} >{made}/functions/mass_storage.0/lun.0/file
    ln -s {made}/functions/mass_storage.0 {made}/configs/c.1
    ls /sys/class/udc | grep dummy >{made}/UDC
    """
    subprocess.run(["sh", "-exc", script], check=True)
    wait_for(_disks)
    subprocess.run(["mount", Path("/dev") / _disks()[0].name, point], check=True)
    yield point
    subprocess.run(["umount", "-l", point], check=False)
    (made / "UDC").write_text("\n")


def _disks() -> list[Path]:
    """The disks that hang on a simulated USB bus, once they can be mounted."""
    found = [one for one in Path("/sys/block").glob("sd*") if "dummy_hcd" in os.path.realpath(one)]
    return [one for one in found if (Path("/dev") / one.name).exists() and (one / "size").read_text().strip() != "0"]


def test_a_real_stick_with_btrfs_is_found_by_its_file_system(stick: Path) -> None:
    mount = mounts.at(str(stick), Path("/proc/self"))
    assert mount is not None
    assert not (Path("/sys/dev/block") / mount.device).exists(), "a btrfs has a number that no device has"
    deed = Usb(lambda: [], mounts=Path("/proc/self/mountinfo"))

    facts = deed.prepare(ID, {"medium": mount.device})
    assert "0781:5567" in deed.do(facts)

    wait_for(lambda: not _disks())
    assert deed.verify(facts) is State.DONE
    deed.undo(facts)
    assert deed.verify(facts) is State.UNDONE
