# SPDX-License-Identifier: Apache-2.0
"""A quarantined file is out of reach and comes back bit for bit; whenever the power goes, one of the two is whole."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mamplus_host.clock import SystemClock
from mamplus_host.errors import ActionFailed
from mamplus_host.executor.actions import quarantine
from mamplus_host.executor.actions.quarantine import Quarantine
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.shape import State
from mamplus_host.executor.storage.boxes import Boxes
from tests.kernel.cut import each_cut

pytestmark = pytest.mark.kernel
ID = "01JD0000000000000000000000-quarantine"
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+ep, as setcap writes it


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of our own: ACLs, capabilities, attributes, a full disk."""
    image, point = tmp_path / "disk.img", tmp_path / "disk"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop,user_xattr,acl", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", point], check=True)


@pytest.fixture
def deed(tmp_path: Path) -> Quarantine:
    return made(tmp_path / "state")


def made(state: Path, max_bytes: int = 1 << 30) -> Quarantine:
    return Quarantine(
        Boxes(state / "quarantine", max_bytes=max_bytes), GuardSet(trees=(state,)), clock=SystemClock()
    )  # fmt: skip


def dressed(directory: Path, content: bytes = b"payload" * 1000) -> Path:
    """A file with everything that a file can have."""
    path = directory / "tool"
    path.write_bytes(content)
    os.chown(path, 1234, 2345)
    path.chmod(0o4751)
    os.setxattr(path, "user.note", b"\x00\xffkept")
    subprocess.run(["setfacl", "-m", "u:7:r-x", path], check=True)
    os.setxattr(path, "security.capability", CAPABILITY)
    os.utime(path, ns=(1_500_000_000_123_456_789, 1_400_000_000_987_654_321))
    os.link(path, directory / "second")
    (directory / "below").mkdir()
    os.link(path, directory / "below" / "third")
    return path


def look(path: Path) -> tuple[object, ...]:
    """Everything of a file that is not its inode, and its names."""
    found = path.stat()
    attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return (
        path.read_bytes(), found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, found.st_nlink, attributes,
    )  # fmt: skip


def test_a_file_is_out_of_reach_and_comes_back_bit_for_bit_with_all_its_names(deed: Quarantine, disk: Path) -> None:
    path = dressed(disk)
    before, accessed_ns = look(path), path.stat().st_atime_ns

    facts = deed.prepare(ID, {"path": str(path)})
    assert deed.verify(facts) is State.UNDONE
    deed.do(facts)

    assert deed.verify(facts) is State.DONE
    assert [one for one in disk.rglob("*") if one.is_file() and one.parent.name != "lost+found"] == []
    (disk / "another").touch()  # has the number of its inode from now on
    undone = deed.undo(facts)

    assert "is back" in undone
    assert path.stat().st_atime_ns == accessed_ns
    assert look(path) == before
    assert (disk / "second").samefile(path)
    assert (disk / "below" / "third").samefile(path)
    assert deed.verify(facts) is State.UNDONE
    assert "where it was" in deed.undo(facts)


def test_where_the_agent_cannot_write_nothing_is_begun_and_the_way_out_is_said(deed: Quarantine, disk: Path) -> None:
    path = dressed(disk)
    subprocess.run(["mount", "-o", "remount,bind,ro", disk], check=True)
    with pytest.raises(ActionFailed, match="ReadWritePaths"):
        deed.prepare(ID, {"path": str(path)})


def test_what_lies_in_quarantine_is_encrypted_and_its_key_is_for_root_alone(
    deed: Quarantine, disk: Path, tmp_path: Path
) -> None:
    path = dressed(disk, b"MALWARE-MARKER" * 100)
    deed.do(deed.prepare(ID, {"path": str(path)}))

    kept = tmp_path / "state" / "quarantine"
    assert all(b"MALWARE-MARKER" not in one.read_bytes() for one in kept.iterdir())
    assert {oct(one.stat().st_mode & 0o777) for one in kept.iterdir()} == {"0o600"}


def test_a_power_cut_at_each_step_leaves_the_file_or_its_box_and_do_again_finishes(tmp_path: Path, disk: Path) -> None:
    place = Laid(tmp_path, disk)
    for at in each_cut(place.ready_to_do):
        assert place.is_somewhere(), f"neither file nor box after a cut at step {at}"
        place.deed.do(place.facts)
        assert place.deed.verify(place.facts) is State.DONE
    assert place.rounds > 4


def test_a_power_cut_at_each_step_of_do_can_be_undone(tmp_path: Path, disk: Path) -> None:
    place = Laid(tmp_path, disk)
    for at in each_cut(place.ready_to_do):
        place.deed.undo(place.facts)
        assert place.deed.verify(place.facts) is State.UNDONE, f"after a cut at step {at}"
        assert look(place.path) == place.before


def test_a_power_cut_at_each_step_of_undo_leaves_the_file_or_its_box_and_undo_again_finishes(
    tmp_path: Path, disk: Path
) -> None:
    place = Laid(tmp_path, disk)
    for at in each_cut(place.ready_to_undo):
        assert place.is_somewhere(), f"neither file nor box after a cut at step {at}"
        place.deed.undo(place.facts)
        assert place.deed.verify(place.facts) is State.UNDONE
        assert look(place.path) == place.before
    assert place.rounds > 5


class Laid:
    """A file to quarantine, laid out anew for each round."""

    def __init__(self, tmp_path: Path, disk: Path) -> None:
        self.root, self.disk, self.rounds = tmp_path, disk, 0

    def ready_to_do(self) -> Callable[[], object]:
        self.rounds += 1
        place = self.disk / str(self.rounds)
        place.mkdir()
        self.path = dressed(place)
        self.before = look(self.path)
        self.deed = made(self.root / f"state{self.rounds}")
        self.facts = self.deed.prepare(ID, {"path": str(self.path)})
        return lambda: self.deed.do(self.facts)

    def ready_to_undo(self) -> Callable[[], object]:
        self.ready_to_do()()
        return lambda: self.deed.undo(self.facts)

    def is_somewhere(self) -> bool:
        """Whether the whole content is at the old place, or in a box that has its page."""
        if self.path.exists() and look(self.path)[0] == self.before[0]:
            return True
        kept = self.deed._boxes
        target = os.memfd_create("box")
        try:
            page = kept.page(ID)
            return page is not None and kept.unpack(ID, target, 0) == (page["sha256"], page["size"])
        except ActionFailed:
            return False
        finally:
            os.close(target)


def test_a_full_quarantine_and_a_full_disk_leave_the_file_where_it_is(tmp_path: Path, disk: Path) -> None:
    path = dressed(disk, os.urandom(300 << 10))
    before = look(path)
    small = made(tmp_path / "small", max_bytes=1000)
    with pytest.raises(ActionFailed, match="quarantine_bytes"):
        small.do(small.prepare(ID, {"path": str(path)}))

    full = made(disk / "state")
    (disk / "state" / "quarantine").mkdir(parents=True)
    facts = full.prepare(ID, {"path": str(path)})
    with (disk / "filler").open("wb") as filler:
        try:
            while True:
                filler.write(bytes(1 << 16))
                filler.flush()
        except OSError:
            pass
    with pytest.raises((ActionFailed, OSError)):
        full.do(facts)
    (disk / "filler").unlink()

    assert look(path) == before
    assert full.verify(facts) is State.UNDONE


def test_another_file_at_the_old_place_stays_and_undo_says_the_way_out(deed: Quarantine, disk: Path) -> None:
    path = dressed(disk)
    content = path.read_bytes()
    facts = deed.prepare(ID, {"path": str(path)})
    deed.do(facts)
    path.write_bytes(b"somebody's new file")

    with pytest.raises(ActionFailed, match="--to PATH"):
        deed.undo(facts)
    assert path.read_bytes() == b"somebody's new file"
    deed.put_at(ID, str(disk / "elsewhere"))
    assert (disk / "elsewhere").read_bytes() == content

    path.unlink()
    (disk / "elsewhere").unlink()
    deed.undo(facts)
    assert path.read_bytes() == content


def test_a_file_that_is_exchanged_after_the_look_stays(deed: Quarantine, disk: Path) -> None:
    path = dressed(disk)
    facts = deed.prepare(ID, {"path": str(path)})
    other = disk / "other"
    other.write_bytes(b"innocent")
    other.replace(path)

    with pytest.raises(ActionFailed, match="another file"):
        deed.do(facts)
    assert path.read_bytes() == b"innocent"


def test_content_that_is_not_the_one_that_was_meant_is_not_taken(deed: Quarantine, disk: Path) -> None:
    path = dressed(disk)
    with pytest.raises(ActionFailed, match="another file by now"):
        deed.prepare(ID, {"path": str(path), "sha256": "0" * 64})


def test_what_is_written_while_it_is_read_is_taken_all_the_same(
    deed: Quarantine, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = dressed(disk)
    facts = deed.prepare(ID, {"path": str(path)})
    writer, tries = path.open("ab"), []
    keep = deed._boxes.keep

    def busy(action_id: str, source: int, size: int) -> tuple[str, int]:
        kept = keep(action_id, source, size)
        writer.write(b"more")
        writer.flush()
        tries.append(kept)
        return kept

    monkeypatch.setattr(deed._boxes, "keep", busy)
    deed.do(facts)
    writer.close()

    assert len(tries) == quarantine.TRIES
    assert not path.exists()
    deed.undo(facts)
    assert path.read_bytes() == b"payload" * 1000 + b"more" * (quarantine.TRIES - 1)
    assert deed.verify(facts) is State.UNDONE


def test_links_on_the_way_directories_devices_and_what_is_guarded_are_refused(
    deed: Quarantine, disk: Path, tmp_path: Path
) -> None:
    path = dressed(disk)
    (disk / "link").symlink_to(path)
    (tmp_path / "state").mkdir(exist_ok=True)
    (tmp_path / "state" / "ours").write_bytes(b"")
    for wrong in (
        disk / "link",
        disk,
        Path("/dev/null"),
        disk / "missing",
        tmp_path / "state" / "ours",
        Path("/bin/login"),
    ):
        with pytest.raises(ActionFailed):
            deed.prepare(ID, {"path": str(wrong)})


def test_a_directory_that_became_a_link_leads_nowhere(deed: Quarantine, disk: Path, tmp_path: Path) -> None:
    (disk / "folder").mkdir()
    path = dressed(disk / "folder")
    facts = deed.prepare(ID, {"path": str(path)})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "tool").write_bytes(b"innocent")
    (disk / "folder").rename(disk / "moved")
    (disk / "folder").symlink_to(elsewhere)

    with pytest.raises(ActionFailed):
        deed.do(facts)
    assert (elsewhere / "tool").read_bytes() == b"innocent"


def test_a_damaged_box_changes_nothing_and_stays(deed: Quarantine, disk: Path, tmp_path: Path) -> None:
    path = dressed(disk)
    facts = deed.prepare(ID, {"path": str(path)})
    deed.do(facts)
    box = tmp_path / "state" / "quarantine" / f"{ID}.box"
    with box.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff\x00\xff")

    with pytest.raises(ActionFailed, match="damaged"):
        deed.undo(facts)
    assert not path.exists()
    assert list(disk.glob(".mamplus*")) == []
    assert box.exists()


def test_a_lost_key_is_told_and_not_replaced(deed: Quarantine, disk: Path, tmp_path: Path) -> None:
    path = dressed(disk)
    facts = deed.prepare(ID, {"path": str(path)})
    deed.do(facts)
    (tmp_path / "state" / "quarantine" / "key").unlink()
    with pytest.raises(ActionFailed, match="is gone"):
        deed.undo(facts)


def test_a_large_file_is_encrypted_in_pieces(deed: Quarantine, tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(200 << 20)
        file.write(b"begin")
    facts = deed.prepare(ID, {"path": str(path)})
    deed.do(facts)
    assert deed.verify(facts) is State.DONE
    deed.undo(facts)
    assert path.stat().st_size == 200 << 20
    assert path.open("rb").read(5) == b"begin"


def test_names_beyond_the_limits_are_counted_and_told(
    deed: Quarantine, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "MAX_NAMES", 1)
    facts = deed.prepare(ID, {"path": str(dressed(disk))})

    assert "1 more name(s)" in deed.do(facts)


def test_a_file_with_one_guarded_name_keeps_all_of_them(tmp_path: Path, disk: Path) -> None:
    """As the programs of BusyBox are: one of them is blocked, and another one starts the device."""
    guarded = disk / "system"
    guarded.mkdir()
    (disk / "tool").write_bytes(b"everything in one")
    os.link(disk / "tool", guarded / "init")
    boxes = Boxes(tmp_path / "state", max_bytes=1 << 30)
    deed = Quarantine(boxes, GuardSet(trees=(guarded,)), clock=SystemClock())

    with pytest.raises(ActionFailed, match="guarded"):
        deed.prepare(ID, {"path": str(disk / "tool")})


def test_what_does_not_fit_is_not_read_either(
    tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """A file of holes has any size that its owner likes, and reading it would take hours."""
    deed = made(tmp_path / "state", max_bytes=1 << 20)
    with (disk / "vast").open("wb") as file:
        file.truncate(8 << 30)

    def read(*_arguments: object) -> str:
        raise AssertionError("it was read")

    monkeypatch.setattr(quarantine, "sha256_of", read)
    with pytest.raises(ActionFailed, match="do not fit"):
        deed.prepare(ID, {"path": str(disk / "vast")})


def test_the_watchdog_hears_while_a_file_is_read_and_encrypted(tmp_path: Path) -> None:
    heard: list[str] = []
    boxes = Boxes(tmp_path / "state", max_bytes=1 << 30, alive=lambda: heard.append("boxes"))
    deed = Quarantine(boxes, GuardSet(), clock=SystemClock(), alive=lambda: heard.append("read"))
    with (tmp_path / "large").open("wb") as file:
        file.truncate(65 << 20)

    deed.do(deed.prepare(ID, {"path": str(tmp_path / "large")}))

    assert {"boxes", "read"} <= set(heard)
