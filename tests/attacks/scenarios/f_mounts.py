# SPDX-License-Identifier: Apache-2.0
"""Other views of the file system: namespaces, overlays, images, detached mounts."""

import os
import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.attacks import calls
from tests.attacks.attack import ELSEWHERE, OPENED, STOPPED, UNSEEN, Missing, attack
from tests.attacks.disks import filled_image, mounted, mounted_when_free
from tests.attacks.ground import Ground
from tests.attacks.outcome import Outcome, Seen, Unexplained
from tests.attacks.payloads import MARK_EXIT
from tests.attacks.scenarios.d_scripts import NOT_SEEN as UNREAD
from tests.attacks.scenarios.d_scripts import found

FAMILY = "other views of the file system"
PATHS = "tools that match paths, or look them up in another mount namespace"
MADE_S = 1_700_000_000  # of two images
NOT_REGISTERED = 77  # exit code
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = 1, 4
FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 1, 6


def started(program: Path | str, marker: Path) -> None:
    os.execv(program, ["x", str(marker)])


@attack("bind mount", FAMILY, STOPPED, bypasses=PATHS)
def bind_mount(on: Ground, payload: Path, marker: Path) -> Seen:
    """Mounts it over a good program, in a user and mount namespace of its own."""
    good = on.payloads.quiet(payload.with_name("good"))

    def deed() -> None:
        calls.own_user()
        calls.mount(bytes(payload), bytes(good), flags=calls.MS_BIND)
        started(good, marker)

    return on.act(deed)


@attack("overlay in a user namespace", FAMILY, STOPPED, bypasses=PATHS)
def own_overlay(on: Ground, payload: Path, marker: Path) -> Seen:
    """Makes an overlay over its directory in a user and mount namespace of its own."""
    parts = [payload.parent / name for name in ("lower", "upper", "work", "merged")]
    for part in parts:
        part.mkdir()
    payload.rename(parts[0] / "program")
    data = f"lowerdir={parts[0]},upperdir={parts[1]},workdir={parts[2]}".encode()

    def deed() -> None:
        calls.own_user()
        calls.mount(b"x", bytes(parts[3]), b"overlay", data=data)
        started(parts[3] / "program", marker)

    return on.act(deed)


@attack("chroot", FAMILY, STOPPED, bypasses=PATHS)
def chroot(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts it as /bin/true of a root of its own."""
    (payload.parent / "bin").mkdir()
    payload.rename(payload.parent / "bin/true")
    inside = payload.parent / "marker"

    def deed() -> None:
        os.chroot(payload.parent)
        os.chdir("/")
        started("/bin/true", Path("/marker"))

    seen = on.act(deed)
    if inside.exists():
        inside.rename(payload.parent / "moved")
        marker.touch()
    return seen


@attack("detached mount", FAMILY, STOPPED, bypasses=f"{PATHS}: it lies in no namespace at all")
def detached(on: Ground, payload: Path, marker: Path) -> Seen:
    """Clones its mount with open_tree(2), mounts that nowhere, and starts it through the descriptor."""

    def deed() -> None:
        tree = calls.call("open_tree", calls.AT_FDCWD, bytes(payload.parent), OPEN_TREE_CLONE)
        calls.executable_at(tree, os.fsencode(payload.name), [b"x", bytes(marker)])

    return on.act(deed)


@attack("script in a detached mount", FAMILY, OPENED, payload="shell", bypasses=PATHS, limit=UNREAD)
def detached_script(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above, and gives a shell the script there."""
    shell = found("sh")

    def deed() -> None:
        tree = calls.call("open_tree", calls.AT_FDCWD, bytes(payload.parent), OPEN_TREE_CLONE)
        os.execv(shell, [shell, f"/proc/self/fd/{tree}/{payload.name}", str(marker)])

    return on.act(deed)


@attack("moved mount", FAMILY, STOPPED, bypasses=PATHS)
def moved(on: Ground, payload: Path, marker: Path) -> Seen:
    """Clones its mount and moves the clone over another directory (move_mount(2)), in a namespace of its own."""
    (payload.parent / "there").mkdir()

    def deed() -> None:
        calls.own_mounts()
        tree = calls.call("open_tree", calls.AT_FDCWD, bytes(payload.parent), OPEN_TREE_CLONE)
        there = bytes(payload.parent / "there")
        calls.call("move_mount", tree, b"", calls.AT_FDCWD, there, MOVE_MOUNT_F_EMPTY_PATH)
        started(payload.parent / "there" / payload.name, marker)

    return on.act(deed)


@attack("detached tmpfs", FAMILY, ELSEWHERE, bypasses=f"{PATHS}; marks on mounts")
def detached_memory(on: Ground, payload: Path, marker: Path) -> Seen:
    """Makes a tmpfs that is mounted nowhere (fsopen, fsmount), copies it there and starts it."""
    body = payload.read_bytes()

    def deed() -> None:
        context = calls.call("fsopen", b"tmpfs", 0)
        calls.call("fsconfig", context, FSCONFIG_CMD_CREATE, None, None, 0)
        tree = calls.call("fsmount", context, 0, 0)
        target = os.open("program", os.O_CREAT | os.O_WRONLY, 0o755, dir_fd=tree)
        os.write(target, body)
        os.close(target)
        calls.executable_at(tree, b"program", [b"x", bytes(marker)])

    return on.act(deed)


@attack("loop image", FAMILY, ELSEWHERE, bypasses=f"scanners of the disk; {PATHS}")
def loop_image(on: Ground, payload: Path, marker: Path) -> Seen:
    """Carries it in a file system inside of a file, mounted when needed."""
    with filled_image(payload.parent, "ext4", ["mkfs.ext4", "-q", "-F"]) as where:
        return on.execute(shutil.copy(payload, where / "program"), marker)


@attack("squashfs image", FAMILY, ELSEWHERE, bypasses="scanners of the disk")
def squashed(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above, compressed, as AppImages and snaps are."""
    image = image_of(payload, made_s=zlib.crc32(payload.read_bytes()))  # not the time of its twin: that is the next one
    with mounted(str(image), payload.with_name("mounted"), "squashfs", "loop") as where:
        return on.execute(where / "program", marker)


@attack(
    "squashfs image after a good one",
    FAMILY,
    ELSEWHERE | dict.fromkeys(("signal without mounting", "fanotify without mounting"), Outcome.NOT_COVERED),
    bypasses="tools that know a file by its numbers",
    limit="a kernel that has neither BPF LSM nor fentry (lockdown, no BTF) does not tell what is mounted: two images"
    " whose files have one number, size and second of time, one after the other on one device, are taken for one",
)
def squashed_after(on: Ground, payload: Path, marker: Path) -> Seen:
    """Mounts it where an image with a good program was: the files have one device, number, size and second of time."""
    good = image_of(on.payloads.quiet(payload.with_name("good")), made_s=MADE_S)
    with mounted(str(good), payload.with_name("first"), "squashfs", "loop") as where:
        on.make_known(where / "program")
        before = (where / "program").stat()
    image, options = str(image_of(payload, made_s=MADE_S)), f"loop=/dev/loop{os.minor(before.st_dev)}"
    with mounted_when_free(image, payload.with_name("second"), "squashfs", options) as where:
        now = (where / "program").stat()
        for name in ("st_dev", "st_ino", "st_size", "st_ctime_ns"):
            if getattr(now, name) != getattr(before, name):
                raise Unexplained(f"{name} is {getattr(now, name)} after {getattr(before, name)}, want the same")
        on.forget_the_past()
        return on.execute(where / "program", marker)


def image_of(program: Path, *, made_s: int) -> Path:
    """Move a program into a squashfs image, of which its time says `made_s` (seconds); Missing without the tool."""
    if not shutil.which("mksquashfs"):
        raise Missing("mksquashfs")
    tree = program.with_name(f"{program.name}-tree")
    tree.mkdir()
    os.utime(program.rename(tree / "program"), (made_s, made_s))
    image = program.with_name(f"{program.name}.squash")
    subprocess.run(["mksquashfs", tree, image, "-quiet", "-no-progress"], check=True, stdout=subprocess.DEVNULL)
    return image


def interpreted(on: Ground, payload: Path, marker: Path, flags: str) -> Seen:
    """Register the payload for files of a new kind, and start one: in a user namespace, or where that is no place for
    it (before Linux 6.7) in all of a machine that is ours."""
    kind = payload.parent.name.replace("-", "")
    good = payload.with_name(f"good.{kind}")
    good.write_text("nothing")
    good.chmod(0o755)
    rule = f":{kind}:E::{kind}::{payload}:{flags}".encode()

    def deed(unshare: Callable[[], None]) -> None:
        try:
            unshare()
            calls.mount(b"x", b"/proc/sys/fs/binfmt_misc", b"binfmt_misc")
        except OSError:
            os._exit(NOT_REGISTERED)
        Path("/proc/sys/fs/binfmt_misc/register").write_bytes(rule)  # with F the kernel opens the payload here
        os.execv(good, ["x", str(marker)])

    seen = on.act(lambda: deed(calls.own_user))
    if seen.exit == NOT_REGISTERED and calls.is_whole_machine_ours():
        seen = on.act(lambda: deed(calls.own_mounts))
    if seen.exit == NOT_REGISTERED:
        raise Missing("binfmt_misc in a user namespace (Linux 6.7)")
    if seen.exit == MARK_EXIT:  # it was given the good file to mark
        marker.touch()
    return seen


@attack("binfmt_misc", FAMILY, STOPPED, payload="dynamic", bypasses="tools that look at the file that was named")
def binfmt(on: Ground, payload: Path, marker: Path) -> Seen:
    """Registers the listed program as the interpreter of a file type (in a user namespace of its own), and starts a
    good file of that type."""
    return interpreted(on, payload, marker, "")


@attack("binfmt_misc, opened before", FAMILY, STOPPED, payload="dynamic", bypasses="tools that look at names")
def binfmt_fixed(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above with the flag F: the kernel opened the interpreter when it was registered, and nobody opens it again."""
    return interpreted(on, payload, marker, "F")


FACES = "a FUSE server sees who reads and may answer each differently: keep /dev/fuse from users"
SERVED = "whoever hashes what somebody else's program serves"


@attack("FUSE with two faces", FAMILY, UNSEEN, bypasses=SERVED, limit=FACES)
def two_faces(on: Ground, payload: Path, marker: Path) -> Seen:
    """A file system of the attacker's own gives a good program to whoever hashes it, and the listed one to whoever
    starts it."""
    return served(on, payload, marker)


@attack("FUSE with two faces, mapped", FAMILY, UNSEEN, bypasses=SERVED, limit=FACES)
def two_faces_mapped(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above, and nothing is started from there: a loader of the attacker's own maps the listed one's segments."""
    return served(on, payload, marker, on.programs / "own_loader")


def served(on: Ground, payload: Path, marker: Path, *loader: Path) -> Seen:
    """Serve the payload to one process alone, as two_faces.c does."""
    subprocess.run(["modprobe", "-q", "fuse"], check=False, capture_output=True)  # built in, on some kernels
    (payload.parent / "fuse").mkdir()
    good = on.payloads.quiet(payload.with_name("good"))
    command = (on.programs / "two_faces", payload.parent / "fuse", good, marker, *loader)
    seen = on.run(*command, stdin=payload.read_bytes())
    if seen.exit == 77:
        raise Missing("FUSE (/dev/fuse)")
    return seen
