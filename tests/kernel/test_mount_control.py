# SPDX-License-Identifier: Apache-2.0
"""Media become read-only, start nothing, or are unmounted, and are as before again: real mounts in a namespace."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mamplus_host.config import Config
from mamplus_host.errors import ActionFailed
from mamplus_host.events import Exec, File, Head
from mamplus_host.executor.actions.mount import MountControl
from mamplus_host.executor.plan import plan, target_of
from mamplus_host.executor.shape import Facts, State
from mamplus_host.executor.storage import mounts
from mamplus_host.policy.actions import ActionRules
from mamplus_host.verdicts import Decision, Finding, Verdict
from tests.kernel.conftest import Agent
from tests.kernel.cut import each_cut

pytestmark = pytest.mark.kernel
ID = "01JD0000000000000000000000-mount"


class Place:
    """A mount namespace of our own with a medium in it; `process` lives there."""

    def __init__(self, root: Path) -> None:
        self.root, self.point, self.image = root, root / "media" / "my stick", root / "image"
        self.point.mkdir(parents=True)
        with self.image.open("wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", self.image], check=True)
        self._sleeper = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sleep", "1000"])
        self.process = Path(f"/proc/{self._sleeper.pid}")
        while os.readlink(self.process / "ns/mnt") == os.readlink("/proc/self/ns/mnt"):
            os.sched_yield()
        told = subprocess.run(["losetup", "--find", "--show", self.image], check=True, capture_output=True, text=True)
        self.loop = told.stdout.strip()
        self.run("mount", "-o", "nosuid,nodev,noatime", self.loop, str(self.point))
        self.deed = MountControl(process=self.process, media=(str(root / "media"),), agent=(root / "agent",))

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command where the medium is mounted."""
        inside = ["nsenter", f"--mount={self.process}/ns/mnt", *command]
        return subprocess.run(inside, check=True, capture_output=True, text=True)

    def fails(self, *command: str) -> bool:
        inside = ["nsenter", f"--mount={self.process}/ns/mnt", *command]
        return subprocess.run(inside, check=False, capture_output=True).returncode != 0

    def options(self) -> set[str]:
        found = mounts.at(str(self.point), self.process)
        return set(found.options) if found else set()

    def close(self) -> None:
        self._sleeper.kill()
        self._sleeper.wait()
        subprocess.run(["losetup", "--detach", self.loop], check=True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(("way", "word"), [("read-only", "ro"), ("noexec", "noexec")])
def test_a_mount_gets_the_option_and_loses_only_that_again(place: Place, way: str, word: str) -> None:
    before = place.options()
    facts = place.deed.prepare(ID, {"path": str(place.point), "way": way})
    assert place.deed.verify(facts) is State.UNDONE

    place.deed.do(facts)

    assert word in place.options()
    assert {"nosuid", "nodev", "noatime"} <= place.options()
    assert place.deed.verify(facts) is State.DONE
    if way == "read-only":
        assert place.fails("touch", f"{place.point}/new")
    place.deed.undo(facts)
    assert place.options() == before
    assert place.deed.verify(facts) is State.UNDONE
    place.run("touch", f"{place.point}/new")


def test_no_program_starts_from_a_noexec_medium(place: Place) -> None:
    place.run("cp", "/bin/true", f"{place.point}/tool")
    assert not place.fails(f"{place.point}/tool")
    facts = place.deed.prepare(ID, {"path": str(place.point), "way": "noexec"})
    place.deed.do(facts)
    assert place.fails(f"{place.point}/tool")
    place.deed.undo(facts)
    assert not place.fails(f"{place.point}/tool")


def test_every_mount_of_the_file_system_is_closed(place: Place) -> None:
    other = place.root / "other"
    other.mkdir()
    place.run("mount", "--bind", str(place.point), str(other))
    facts = place.deed.prepare(ID, {"path": str(place.point), "way": "read-only"})
    place.deed.do(facts)
    assert place.fails("touch", f"{other}/new")
    place.deed.undo(facts)
    place.run("touch", f"{other}/new")


def test_a_medium_is_unmounted_and_mounted_again_with_its_options_and_files(place: Place) -> None:
    place.run("sh", "-c", f"echo kept >'{place.point}/file'")
    before = place.options()
    facts = place.deed.prepare(ID, {"path": str(place.point), "way": "unmount"})

    place.deed.do(facts)
    assert mounts.at(str(place.point), place.process) is None
    assert place.deed.verify(facts) is State.DONE

    place.deed.undo(facts)
    assert place.options() == before
    assert place.run("cat", f"{place.point}/file").stdout == "kept\n"
    assert place.deed.verify(facts) is State.UNDONE


def test_a_medium_that_is_in_use_stays_and_the_error_says_what_to_do(place: Place) -> None:
    holds = f"exec 9>'{place.point}/open'; echo; exec sleep 1000"
    inside = ["nsenter", f"--mount={place.process}/ns/mnt", "sh", "-c", holds]
    user = subprocess.Popen(inside, stdout=subprocess.PIPE)
    assert user.stdout is not None
    user.stdout.readline()
    for way in ("unmount", "read-only"):
        with pytest.raises(ActionFailed, match="close it"):
            place.deed.do(place.deed.prepare(ID, {"path": str(place.point), "way": way}))
    user.kill()
    user.wait()


@pytest.mark.parametrize("way", ["read-only", "unmount"])
@pytest.mark.parametrize("direction", ["do", "undo"])
def test_a_power_cut_can_be_finished_and_undone(place: Place, way: str, direction: str) -> None:
    before = place.options()
    facts = place.deed.prepare(ID, {"path": str(place.point), "way": way})

    def ready() -> Callable[[], object]:
        place.deed.undo(facts) if direction == "do" else place.deed.do(facts)
        return lambda: place.deed.do(facts) if direction == "do" else place.deed.undo(facts)

    for _at in each_cut(ready):
        place.deed.do(facts)
        assert place.deed.verify(facts) is State.DONE
        place.deed.undo(facts)
        assert place.options() == before


def test_what_the_system_or_the_agent_lies_on_is_not_touched(place: Place) -> None:
    for point in ("/", "/proc"):
        with pytest.raises(ActionFailed, match="not touched"):
            place.deed.prepare(ID, {"path": point, "way": "read-only"})
    (place.root / "agent").mkdir()
    carrying = MountControl(process=place.process, agent=(place.point / "state",), media=(str(place.root),))
    with pytest.raises(ActionFailed, match="the agent's"):
        carrying.prepare(ID, {"path": str(place.point), "way": "noexec"})


def test_undo_does_not_mount_over_another_medium(place: Place) -> None:
    facts = place.deed.prepare(ID, {"path": str(place.point), "way": "unmount"})
    place.deed.do(facts)
    place.run("mount", "-t", "tmpfs", "other", str(place.point))
    with pytest.raises(ActionFailed, match="another file system"):
        place.deed.undo(facts)
    place.run("umount", str(place.point))
    place.deed.undo(facts)
    assert place.deed.verify(facts) is State.UNDONE


def test_only_removable_media_are_unmounted(place: Place) -> None:
    careful = MountControl(process=place.process)
    with pytest.raises(ActionFailed, match="no removable medium"):
        careful.prepare(ID, {"path": str(place.point), "way": "unmount"})
    assert careful.prepare(ID, {"path": str(place.point), "way": "read-only"})["mounts"]


def test_another_medium_at_that_place_is_left_alone(place: Place) -> None:
    facts = place.deed.prepare(ID, {"path": str(place.point), "way": "read-only"})
    place.deed.do(facts)
    place.run("umount", str(place.point))
    place.run("mount", "-t", "tmpfs", "other", str(place.point))
    before = place.options()
    place.deed.undo(facts)
    assert place.options() == before
    assert place.deed.verify(facts) is State.UNDONE, "what is unmounted could never be undone"
    place.run("touch", f"{place.point}/new")
    with pytest.raises(ActionFailed, match="nothing is mounted"):
        place.deed.prepare(ID, {"path": "/nowhere"})
    with pytest.raises(ActionFailed, match="no way"):
        place.deed.prepare(ID, {"path": str(place.point), "way": "burn"})


def answered(place: Place, dev: int, path: str) -> Facts:
    """Prepare what a policy answers with to a program that was started as `path`."""
    head = Head(boot_ns=7, cgroup_id=1, generation=1, tgid=500, ppid=2, uid=0, slot=0, flags=0, verdict=Verdict.BLOCK,
                comm="x")  # fmt: skip
    event = Exec(head=head, file=File(dev=dev, ino=2, size=3, ctime_s=4, ctime_ns=5), sha256="", path=path)
    decision = Decision(id="01" * 13, finding=Finding.CONFIRMED, event=event, rule="ble", reason="")
    (action,) = plan(decision, Config(), rules=ActionRules(confirmed={"exec": ("mount",)}))
    return place.deed.prepare(ID, target_of(decision, action))


@pytest.mark.parametrize("given", ["tool", "link", "whole"])
def test_by_the_policy_the_medium_that_a_program_lies_on_starts_nothing_more(place: Place, given: str) -> None:
    program = place.point / "deep" / "tool"
    place.run("mkdir", str(program.parent))
    place.run("cp", "/bin/true", str(program))
    (place.root / "link").symlink_to(program)
    path = {"tool": "./tool", "link": str(place.root / "link"), "whole": str(program)}[given]
    number = os.stat(place.loop).st_rdev

    facts = answered(place, os.major(number) << 20 | os.minor(number), path)
    place.deed.do(facts)

    assert place.fails(str(program))
    place.deed.undo(facts)
    assert not place.fails(str(program))
    with pytest.raises(ActionFailed, match="not touched"):
        place.deed.prepare(ID, {"file": "/usr/bin/true", "way": "noexec"})


def test_a_program_elsewhere_means_nobodys_medium_whatever_path_it_was_started_by(place: Place) -> None:
    with pytest.raises(ActionFailed, match="nothing is mounted of device 0:0"):
        answered(place, 0, f"{place.point}/../../tool")
    with pytest.raises(ActionFailed, match="not touched"):
        place.deed.prepare(ID, {"file": f"{place.point}/../../../../../../../../../../usr/bin/true", "way": "noexec"})


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    """A stick with a btrfs, mounted, and a subvolume in it."""
    image, point = tmp_path / "image", tmp_path / "stick"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    if "MAMPLUS_VM" in os.environ:
        subprocess.run(["modprobe", "-a", "loop", "btrfs"], check=True)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True)
    point.mkdir()
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        subprocess.run(["btrfs", "-q", "subvolume", "create", point / "sub"], check=True)
        yield point
    finally:
        subprocess.run(["umount", "-l", point], check=True)


def test_a_btrfs_is_found_by_the_number_that_the_kernel_tells_of_a_program_in_a_subvolume(
    agent: Agent, fresh: Callable[..., Path], btrfs: Path
) -> None:
    program, here = fresh(directory=btrfs / "sub"), Path("/proc/self")
    assert os.stat(program).st_dev != os.stat(btrfs).st_dev, "each subvolume has a number of its own for stat(2)"
    with agent.start(program, btrfs.parent / "mark") as process:
        process.wait()
    inode = program.stat().st_ino
    started = agent.wait_for("exec", lambda one: (one.tgid, one.fields["file_ino"]) == (process.pid, inode))
    number = started.fields["file_dev"]
    deed = MountControl(process=here, media=(str(btrfs.parent),))

    facts = deed.prepare(ID, {"medium": f"{number >> 20}:{number & 0xFFFFF}", "way": "noexec"})
    deed.do(facts)

    try:
        assert [one["point"] for one in facts["mounts"]] == [str(btrfs)]
        with pytest.raises(PermissionError):
            subprocess.run([program, btrfs.parent / "mark"], check=False)
    finally:
        deed.undo(facts)
    assert deed.verify(facts) is State.UNDONE
    mount = mounts.at(str(btrfs), here)
    assert mount is not None
    (lies_on,) = mounts.blocks_of(mount, here)
    assert (lies_on / "loop/backing_file").read_text().strip() == str(btrfs.parent / "image")
