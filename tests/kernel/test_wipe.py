# SPDX-License-Identifier: Apache-2.0
"""The professional container ends for good and nothing else does: real LUKS2, fscrypt on ext4, trees, power cuts."""

import base64
import ctypes
import fcntl
import json
import os
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mamplus_host.clock import SystemClock
from mamplus_host.config import Container, parse
from mamplus_host.errors import ActionFailed, CodeUsed, ConfigInvalid
from mamplus_host.executor.actions.container_lock import ContainerLock, refuse_system
from mamplus_host.executor.actions.wipe import Wipe
from mamplus_host.executor.receipts import Receipts
from mamplus_host.executor.shape import State
from mamplus_host.executor.storage import fscrypt, luks
from mamplus_host.executor.storage.mount_helper import CLONE_NEWNS
from mamplus_host.executor.storage.mounts import INIT
from mamplus_host.maintenance import order as orders
from mamplus_host.maintenance.order import Order, Orders
from tests.kernel.cut import each_cut

pytestmark = pytest.mark.kernel
ID = "01JD0000000000000000000000-wipe"
PASSWORD = b"correct horse"
ADD_KEY, SET_POLICY = 0xC0506617, 0x800C6613
KEY_BYTES = 64


class Trusting(Orders):
    """Orders whose signatures are believed: tests/enterprise/test_orders.py is about them."""

    def _want_genuine(self, order: Order, data: bytes, signature: bytes) -> None:
        pass


class Work:
    """A professional container: an image with LUKS2, an encrypted folder, a plain one; and private files beside it."""

    def __init__(self, root: Path, *parts: str) -> None:
        self.root, self.state = root, root / "state"
        self.image, self.folder = root / "work.luks", root / "disk" / "work"
        self.plain, self.private = root / "home" / "work", root / "home" / "private"
        self.state.mkdir()
        self.key = Ed25519PrivateKey.generate()
        chosen: dict[str, tuple[str, ...]] = {}
        if "luks" in parts:
            format_luks(self.image)
            chosen["luks"] = (str(self.image),)
        if "fscrypt" in parts:
            self.folder.mkdir()
            self.key_id = encrypt(self.folder)
            chosen["fscrypt"] = (str(self.folder),)
        if "paths" in parts:
            self.plain.mkdir(parents=True)
            chosen["paths"] = (str(self.plain),)
        self.private.mkdir(parents=True)
        self.container = Container(**chosen)
        self.fill()
        self.deed = self.made(self.container)

    def made(self, container: Container, process: Path = INIT) -> Wipe:
        self.receipts = Receipts(self.state / "receipts", lambda: self.key.sign)
        return Wipe(container, Trusting(self.state, lambda: 0.0), self.receipts, clock=SystemClock(), process=process)

    def fill(self) -> None:
        for place in (self.folder, self.plain):
            if place.is_dir():
                (place / "deep" / "er").mkdir(parents=True, exist_ok=True)
                for name in ("report", "deep/er/plan"):
                    (place / name).write_bytes(b"company secret" * 100)
                (place / "out").unlink(missing_ok=True)
                (place / "out").symlink_to(self.private)
        (self.private / "photo").write_bytes(b"mine")
        if self.plain.is_dir():
            (self.plain / "shared").unlink(missing_ok=True)
            os.link(self.private / "photo", self.plain / "shared")

    def order(self, number: int = 1) -> str:
        made = Order(what="wipe", device="d", id=f"{number:016x}", expires_s=1 << 40, reason="stolen")
        return orders.spell(orders.payload(made), b"s" * 64)

    def receipt(self) -> Any:
        kept = json.loads((self.state / "receipts" / f"{ID}.json").read_bytes())
        return json.loads(kept["receipt"])


def format_luks(image: Path) -> None:
    with image.open("wb") as file:
        file.truncate(20 << 20)
    quick = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--luks2-keyslots-size", "1m")
    command = ["cryptsetup", "luksFormat", "--type", "luks2", "--batch-mode", *quick, str(image), "-"]
    subprocess.run(command, input=PASSWORD, check=True)


def opens(image: Path) -> bool:
    command = ["cryptsetup", "open", "--test-passphrase", str(image), "--key-file", "-"]
    return subprocess.run(command, input=PASSWORD, check=False, capture_output=True).returncode == 0


def encrypt(folder: Path) -> str:
    """Give an empty directory a key of its own, as fscrypt does; return its identifier."""
    return add_key(folder, os.urandom(KEY_BYTES), is_new=True)


def add_key(folder: Path, raw: bytes, *, is_new: bool = False) -> str:
    argument = bytearray(struct.pack("=II32sII32x", 2, 0, b"", len(raw), 0) + raw)
    descriptor = os.open(folder.parent if is_new else folder, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, ADD_KEY, argument, True)
    finally:
        os.close(descriptor)
    identifier = bytes(argument[8:24])
    if is_new:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SET_POLICY, struct.pack("=BBBB4x16s", 2, 1, 4, 3, identifier))
        finally:
            os.close(descriptor)
    return identifier.hex()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory with an ext4 in `disk` that can encrypt and trim."""
    image, point = tmp_path / "disk.img", tmp_path / "disk"
    point.mkdir()
    if "MAMPLUS_VM" in os.environ:
        subprocess.run(["modprobe", "loop"], check=True)
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "encrypt", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", point], check=True)


def test_no_passphrase_opens_a_wiped_container_and_its_blocks_are_given_back(place: Path) -> None:
    work = Work(place, "luks")
    assert opens(work.image)
    facts = work.deed.prepare(ID, {"order": work.order()})
    assert work.deed.verify(facts) is State.UNDONE

    work.deed.do(facts)

    assert not opens(work.image)
    assert work.image.stat().st_blocks == 0
    assert work.deed.verify(facts) is State.DONE
    with pytest.raises(ActionFailed, match="backup"):
        work.deed.undo(facts)


def test_without_its_key_an_encrypted_folder_is_empty_and_the_wrapped_key_is_gone(place: Path) -> None:
    work = Work(place, "fscrypt")
    wrapped = fscrypt.wrapped(str(work.folder), work.key_id)
    wrapped.parent.mkdir(parents=True)
    wrapped.write_bytes(b"wrapped key")
    facts = work.deed.prepare(ID, {"order": work.order()})

    work.deed.do(facts)

    assert not wrapped.exists()
    assert list(work.folder.iterdir()) == []
    assert fscrypt.status(str(work.folder), work.key_id) is fscrypt.Key.ABSENT
    assert work.deed.verify(facts) is State.DONE


def test_a_folder_of_work_is_emptied_and_what_its_links_point_to_stays(place: Path) -> None:
    work = Work(place, "paths")
    facts = work.deed.prepare(ID, {"order": work.order()})

    work.deed.do(facts)

    assert list(work.plain.iterdir()) == []
    assert (work.private / "photo").read_bytes() == b"mine", "a second name of a private file took its content along"
    assert work.deed.verify(facts) is State.DONE


def test_what_is_read_only_for_the_agent_alone_is_wiped(place: Path) -> None:
    """ProtectSystem=strict gives the agent a mount namespace in which most folders are read-only."""
    work = Work(place, "luks", "paths")
    facts = work.deed.prepare(ID, {"order": work.order()})
    outside = Path(f"/proc/{os.getpid()}")
    agent = os.fork()
    if not agent:
        code = 1
        try:
            assert ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
            for words in (["--make-rprivate", "/"], ["--bind", place, place], ["-o", "remount,bind,ro", place]):
                subprocess.run(["mount", *words], check=True)
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", work.state], check=True)  # its own stays writable
            with pytest.raises(OSError, match="Read-only"):
                (work.plain / "report").unlink()
            work.made(work.container, outside).do(facts)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(agent, 0)[1]) == 0

    assert list(work.plain.iterdir()) == []
    assert not opens(work.image)


def test_what_is_held_open_loses_its_content_too(place: Path) -> None:
    work = Work(place, "paths")
    with (work.plain / "report").open("rb") as held:
        work.deed.do(work.deed.prepare(ID, {"order": work.order()}))
        assert b"secret" not in held.read()


def test_another_file_system_that_is_mounted_inside_is_not_entered(place: Path) -> None:
    work = Work(place, "paths")
    inside = work.plain / "mounted"
    inside.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", inside], check=True)
    try:
        (inside / "private").write_bytes(b"mine")
        facts = work.deed.prepare(ID, {"order": work.order()})
        assert "mounted" in work.deed.do(facts)
        assert (inside / "private").read_bytes() == b"mine"
        assert work.deed.verify(facts) is State.BETWEEN
    finally:
        subprocess.run(["umount", inside], check=True)


def test_a_power_cut_at_each_step_is_gone_on_with_and_each_receipt_is_whole(place: Path) -> None:
    rounds: list[tuple[Work, dict[str, Any]]] = []

    def ready() -> Callable[[], object]:
        number = len(rounds)
        root = place / f"round{number}"
        root.mkdir()
        (root / "disk").symlink_to(place / "disk")
        work = Work(root, "luks", "paths")
        facts = work.deed.prepare(ID, {"order": work.order()})
        rounds.append((work, facts))
        return lambda: work.deed.do(facts)

    states = []
    for at in each_cut(ready):
        work, facts = rounds[-1]
        states.append(work.deed.verify(facts))
        again = work.made(work.container)  # the next start
        again.do(facts)
        assert again.verify(facts) is State.DONE, f"after a cut at step {at}"
        assert not opens(work.image)
        assert [one["what"].split()[0] for one in work.receipt()["steps"]] == ["keys", "content", "blocks", "blocks"]
        assert (work.private / "photo").read_bytes() == b"mine"
    assert set(states) == {State.BETWEEN}, "a wipe that was begun looked as if it had not been"


def test_a_power_cut_between_the_wrapped_key_and_the_kernels_is_gone_on_with(place: Path) -> None:
    rounds: list[tuple[Work, dict[str, Any]]] = []

    def ready() -> Callable[[], object]:
        root = place / "disk" / f"round{len(rounds)}"
        (root / "disk").mkdir(parents=True)
        work = Work(root, "fscrypt")
        facts = work.deed.prepare(ID, {"order": work.order()})
        rounds.append((work, facts))
        return lambda: work.deed.do(facts)

    for at in each_cut(ready):
        work, facts = rounds[-1]
        work.made(work.container).do(facts)
        assert work.deed.verify(facts) is State.DONE, f"after a cut at step {at}"


def test_the_receipt_is_signed_by_the_device_names_its_steps_and_is_told_once(place: Path) -> None:
    work = Work(place, "luks", "fscrypt", "paths")
    work.deed.do(work.deed.prepare(ID, {"order": work.order(7)}))

    (kept,) = work.receipts.untold().values()
    work.key.public_key().verify(base64.b64decode(kept["signature"]), b"mamplus-receipt\n" + kept["receipt"].encode())
    said = work.receipt()
    assert said["order"] == f"{7:016x}"
    assert [one["what"] for one in said["steps"]][:2] == [f"keys of {work.image}", f"keys of {work.folder}"]
    assert said["steps"][0]["slots"] == 0
    (work.state / "receipts" / "damaged.json").write_text('{"told"')
    assert list(work.receipts.untold()) == [ID], "a damaged one stands in the way of no other"
    work.receipts.told(ID)
    assert work.receipts.untold() == {}
    assert work.receipts.has(ID)


def test_without_an_order_or_with_a_used_one_nothing_is_wiped(place: Path) -> None:
    work = Work(place, "luks")
    for target in ({}, {"order": ""}, {"order": "wipe it"}, {"reason": "the list says so", "path": str(work.image)}):
        with pytest.raises(ActionFailed):
            work.deed.prepare(ID, target)
    work.deed.do(work.deed.prepare(ID, {"order": work.order()}))
    with pytest.raises(ActionFailed, match="carried out already"):
        work.deed.prepare(ID, {"order": work.order()})
    with pytest.raises(CodeUsed):
        Trusting(work.state, lambda: 0.0).accept(work.order(), "wipe")


def test_outside_of_the_configured_container_nothing_is_wiped_whatever_the_journal_says(place: Path) -> None:
    work = Work(place, "paths")
    facts = work.deed.prepare(ID, {"order": work.order()})
    facts["paths"].append({"path": str(work.private)})
    with pytest.raises(ActionFailed, match="is not in"):
        work.deed.do(facts)
    assert (work.private / "photo").exists()
    assert (work.plain / "report").exists()
    with pytest.raises(ActionFailed, match="no professional container"):
        work.made(Container()).prepare(ID, {"order": work.order()})


def test_another_container_at_the_same_place_is_not_erased(place: Path) -> None:
    work = Work(place, "luks")
    facts = work.deed.prepare(ID, {"order": work.order()})
    format_luks(work.image)  # another one, with another UUID
    work.deed.do(facts)
    assert opens(work.image)


def test_what_is_no_luks_container_is_told_before_anything_is_done(place: Path) -> None:
    work = Work(place, "paths")
    (place / "note").write_bytes(bytes(1 << 20))
    both = work.made(Container(luks=(str(place / "note"),), paths=work.container.paths))
    with pytest.raises(ActionFailed, match="no LUKS2 container"):
        both.prepare(ID, {"order": work.order()})
    assert (work.plain / "report").exists()


@pytest.mark.parametrize("path", ["/", "/home", "/etc/x", "/usr/share/x", "/data", "/home/../etc", "data/work", "/srv"])
def test_a_container_that_is_the_systems_own_is_no_configuration(path: str) -> None:
    with pytest.raises(ConfigInvalid, match="container"):
        parse({"container": {"paths": [path]}})


def test_a_container_that_holds_the_agent_is_no_configuration() -> None:
    with pytest.raises(ConfigInvalid, match="the agent's"):
        parse({"paths": {"state": "/data/mamplus/state"}, "container": {"paths": ["/data/mamplus"]}})
    assert parse({"container": {"paths": ["/data/work"]}}).container.paths == ("/data/work",)


def test_a_locked_folder_is_unreadable_until_its_key_is_back(place: Path) -> None:
    folder, raw = place / "disk" / "locked", os.urandom(KEY_BYTES)
    folder.mkdir()
    add_key(folder, raw, is_new=True)
    (folder / "report").write_bytes(b"company secret")
    deed = ContainerLock(Container(fscrypt=(str(folder),)))
    facts = deed.prepare(ID, {})
    assert deed.verify(facts) is State.UNDONE

    deed.do(facts)

    assert not (folder / "report").exists()
    assert deed.verify(facts) is State.DONE
    with pytest.raises(ActionFailed, match="passphrase"):
        deed.undo(facts)
    add_key(folder, raw)
    assert (folder / "report").read_bytes() == b"company secret"


def test_files_that_are_open_while_a_folder_is_locked_are_told(place: Path) -> None:
    work = Work(place, "fscrypt")
    deed = ContainerLock(work.container)
    facts = deed.prepare(ID, {})
    with (work.folder / "report").open("rb"):
        assert "are open" in deed.do(facts)
        assert deed.verify(facts) is not State.DONE
    deed.do(facts)
    assert deed.verify(facts) is State.DONE


@pytest.fixture
def open_container(place: Path) -> Iterator[tuple[Work, Path]]:
    """A LUKS2 container that is open and mounted: needs the device mapper, so the virtual machine."""
    if "MAMPLUS_VM" in os.environ:
        subprocess.run(["modprobe", "dm-crypt"], check=True)
    if "device-mapper" not in Path("/proc/misc").read_text():
        pytest.skip("this kernel has no device mapper: make vm")
    work, point = Work(place, "luks"), place / "point"
    command = ["cryptsetup", "open", str(work.image), "mptest", "--key-file", "-"]
    subprocess.run(command, input=PASSWORD, check=True)
    subprocess.run(["mkfs.ext4", "-q", "/dev/mapper/mptest"], check=True)
    point.mkdir()
    subprocess.run(["mount", "/dev/mapper/mptest", point], check=True)
    yield work, point
    subprocess.run(["umount", "-l", point], check=False)
    subprocess.run(["dmsetup", "remove", "--force", "mptest"], check=False)


def test_an_open_container_is_unmounted_and_closed_by_a_wipe(open_container: tuple[Work, Path]) -> None:
    work, point = open_container
    facts = work.deed.prepare(ID, {"order": work.order()})
    work.deed.do(facts)
    assert not point.is_mount()
    assert luks.mappings(facts["luks"][0]["uuid"]) == []
    assert work.deed.verify(facts) is State.DONE


def test_a_container_in_use_is_suspended_by_a_lock_and_its_passphrase_brings_it_back(
    open_container: tuple[Work, Path],
) -> None:
    work, point = open_container
    deed = ContainerLock(work.container)
    facts = deed.prepare(ID, {})
    with (point / "open").open("wb") as held:
        deed.do(facts)
        assert luks.is_suspended("mptest")
        assert deed.verify(facts) is State.DONE
        command = ["cryptsetup", "luksResume", "mptest", "--key-file", "-"]
        subprocess.run(command, input=PASSWORD, check=True)
        held.write(b"on")
    assert deed.verify(facts) is State.UNDONE


@pytest.fixture
def deep(place: Path) -> Iterator[Work]:
    """A container so deep that neither a path reaches its end nor recursion (pytest's own clean-up) comes back."""
    work = Work(place, "paths")
    try:
        current = os.open(work.plain, os.O_RDONLY | os.O_DIRECTORY)
        for _ in range(3000):
            os.mkdir("d", dir_fd=current)
            below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=current)
            os.close(current)
            current = below
        os.close(current)
        yield work
    finally:
        subprocess.run(["rm", "-rf", work.plain], check=True)


def test_a_tree_of_any_depth_is_emptied(deep: Work) -> None:
    facts = deep.deed.prepare(ID, {"order": deep.order()})

    assert "names stay" not in deep.deed.do(facts)

    assert list(deep.plain.iterdir()) == []


def test_what_cannot_be_wiped_does_not_spare_the_rest(place: Path) -> None:
    work = Work(place, "paths")
    broken = place / "broken"
    broken.write_text("no directory")
    deed = work.made(Container(paths=(str(broken), str(work.plain))))
    facts = deed.prepare(ID, {"order": work.order()})

    with pytest.raises(ActionFailed, match=r"wiped all but content of .*broken"):
        deed.do(facts)

    assert list(work.plain.iterdir()) == []
    assert not work.receipts.has(ID)


@pytest.mark.parametrize("device", ["253:1 ext4", "0:41 btrfs"])
@pytest.mark.parametrize(("point", "is_refused"), [("/", True), ("/var", True), ("/srv/work", False)])
def test_a_container_that_the_device_runs_from_is_not_touched(
    tmp_path: Path, point: str, is_refused: bool, device: str
) -> None:
    """LVM in LUKS: what is mounted is a volume, and its slave is the container."""
    block = tmp_path / "sys/block"
    for name, kind, number in (("work", "CRYPT-LUKS2-00ff-work", "253:0"), ("group-volume", "LVM-1", "253:1")):
        (block / f"dm-{number[-1]}" / "dm").mkdir(parents=True)
        (block / f"dm-{number[-1]}" / "dm/uuid").write_text(kind)
        (block / f"dm-{number[-1]}" / "dm/name").write_text(name)
    (block / "dm-1/slaves").mkdir()
    (block / "dm-1/slaves/dm-0").symlink_to(block / "dm-0")
    (tmp_path / "sys/dev/block").mkdir(parents=True)
    (tmp_path / "sys/dev/block/253:1").symlink_to(block / "dm-1")
    number, kind = device.split()
    line = f"22 1 {number} / {point} rw,relatime shared:1 - {kind} /dev/mapper/group-volume rw\n"
    (tmp_path / "root/dev/mapper").mkdir(parents=True)
    os.mknod(tmp_path / "root/dev/mapper/group-volume", stat.S_IFBLK | 0o600, os.makedev(253, 1))
    (tmp_path / "mountinfo").write_text(line)
    one = {"path": "/dev/sda2", "uuid": "00-ff"}

    if is_refused:
        with pytest.raises(ActionFailed, match="lies in it"):
            refuse_system(one, tmp_path, tmp_path / "sys")
    else:
        refuse_system(one, tmp_path, tmp_path / "sys")


def test_a_medium_that_is_not_there_is_named_and_spares_nothing_else(place: Path) -> None:
    work = Work(place, "paths")
    stick, folder = str(place / "unplugged.luks"), str(place / "disk" / "unmounted" / "work")
    deed = work.made(Container(luks=(stick,), fscrypt=(folder,), paths=work.container.paths))
    facts = deed.prepare(ID, {"order": work.order()})
    assert facts["missing"] == [stick, folder]

    words = deed.do(facts)

    assert "not there and not wiped" in words
    assert list(work.plain.iterdir()) == []
    assert work.receipt()["missing"] == [stick, folder]
    assert deed.verify(facts) is State.DONE


def test_where_nothing_of_the_container_is_there_the_order_stays_unused(place: Path) -> None:
    work = Work(place)
    container = Container(luks=(str(place / "unplugged.luks"),))

    for _again in range(2):
        with pytest.raises(ActionFailed, match=r"not there: .*unplugged"):
            work.made(container).prepare(ID, {"order": work.order()})
    with pytest.raises(ActionFailed, match=r"not there: .*unplugged"):
        ContainerLock(container).prepare(ID, {})
