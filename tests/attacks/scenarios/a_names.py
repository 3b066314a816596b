# SPDX-License-Identifier: Apache-2.0
"""The listed file under another name, or under none."""

import os
import shutil
import tempfile
from pathlib import Path

from tests.attacks.attack import ELSEWHERE, STOPPED, attack, everywhere
from tests.attacks.calls import executable_at, memory_file
from tests.attacks.disks import mounted
from tests.attacks.ground import Ground
from tests.attacks.outcome import Outcome, Seen

FAMILY = "the same file under another name"
NAMELESS = "a file without a name"
PATHS = "tools that match the path of a program (AppArmor profiles, path rules of fapolicyd, Falco rules by name)"


@attack("plain", FAMILY, STOPPED)
def plain(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts the listed file as it is."""
    return on.execute(payload, marker)


@attack("copy", FAMILY, STOPPED, bypasses=PATHS)
def copy(on: Ground, payload: Path, marker: Path) -> Seen:
    """Copies it and starts the copy."""
    shutil.copy(payload, payload.with_name("ls"))
    return on.execute(payload.with_name("ls"), marker)


@attack("rename", FAMILY, STOPPED, bypasses=PATHS)
def rename(on: Ground, payload: Path, marker: Path) -> Seen:
    """Renames it and starts it."""
    return on.execute(payload.rename(payload.with_name("cron")), marker)


@attack("hard link", FAMILY, STOPPED, bypasses=PATHS)
def hard_link(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts a second name of the same file."""
    payload.with_name("sh").hardlink_to(payload)
    return on.execute(payload.with_name("sh"), marker)


@attack("symbolic link", FAMILY, STOPPED, bypasses=PATHS)
def symbolic_link(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts it through a chain of two symbolic links."""
    payload.with_name("one").symlink_to(payload.name)
    payload.with_name("two").symlink_to("one")
    return on.execute(payload.with_name("two"), marker)


@attack("/proc/self/root", FAMILY, STOPPED, bypasses=PATHS)
def proc_self_root(on: Ground, payload: Path, marker: Path) -> Seen:
    """Names it below /proc/self/root."""
    return on.execute(f"/proc/self/root{payload}", marker)


@attack("/dev/shm", FAMILY, STOPPED)
def dev_shm(on: Ground, payload: Path, marker: Path) -> Seen:
    """Copies it to memory (tmpfs) and starts it there."""
    other = shutil.copy(payload, on.memory / payload.parent.name)
    return on.execute(other, marker)


@attack(
    "one changed byte",
    FAMILY,
    everywhere(Outcome.RUNS),
    is_innocent=True,
    limit="a list of hashes names files, not families of them: the changed file is another one, and not listed",
)
def one_changed_byte(on: Ground, payload: Path, marker: Path) -> Seen:
    """Changes its last byte and starts it: it must run."""
    body = bytearray(payload.read_bytes())
    body[-1] ^= 1
    payload.write_bytes(body)
    return on.execute(payload, marker)


@attack("by descriptor", NAMELESS, STOPPED, bypasses="tools that hook execve(2) and read its path")
def by_descriptor(on: Ground, payload: Path, marker: Path) -> Seen:
    """execveat(fd, "", AT_EMPTY_PATH)."""
    return on.act(lambda: executable_at(os.open(payload, os.O_RDONLY), b"", [b"x", bytes(marker)]))


@attack("by O_PATH descriptor", NAMELESS, STOPPED)
def by_path_descriptor(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above, with a descriptor that was never opened for reading."""
    return on.act(lambda: executable_at(os.open(payload, os.O_PATH), b"", [b"x", bytes(marker)]))


@attack("deleted file", NAMELESS, STOPPED, bypasses="tools that hash the path after the event")
def deleted_file(on: Ground, payload: Path, marker: Path) -> Seen:
    """Opens it, deletes it, and starts /proc/self/fd/N."""

    def deed() -> None:
        descriptor = os.open(payload, os.O_RDONLY)
        payload.unlink()
        os.execv(f"/proc/self/fd/{descriptor}", ["x", str(marker)])

    return on.act(deed)


@attack(
    "memfd", NAMELESS, ELSEWHERE, bypasses="scanners of files; fapolicyd and fanotify marks on mounts do not see memfd"
)
def memfd(on: Ground, payload: Path, marker: Path) -> Seen:
    """Writes it to a memfd and starts that: there is no file anywhere."""
    body = payload.read_bytes()
    return on.act(lambda: executable_at(memory_file(body), b"", [b"x", bytes(marker)]))


@attack("sealed memfd", NAMELESS, ELSEWHERE)
def sealed_memfd(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above with every seal set, as runc starts itself."""
    body = payload.read_bytes()
    return on.act(lambda: executable_at(memory_file(body, is_sealed=True), b"", [b"x", bytes(marker)]))


@attack("O_TMPFILE", NAMELESS, STOPPED)
def tmpfile(on: Ground, payload: Path, marker: Path) -> Seen:
    """Writes it to a file that never had a name."""
    body = payload.read_bytes()

    def deed() -> None:
        descriptor = os.open(payload.parent, os.O_TMPFILE | os.O_WRONLY, 0o700)
        os.write(descriptor, body)
        reopened = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
        os.close(descriptor)
        executable_at(reopened, b"", [b"x", bytes(marker)])

    return on.act(deed)


@attack("passed descriptor", NAMELESS, STOPPED)
def passed_descriptor(on: Ground, payload: Path, marker: Path) -> Seen:
    """Is given a descriptor by a process outside of the scope (SCM_RIGHTS) and starts that."""
    import socket

    here, there = socket.socketpair()
    with here, there, payload.open("rb") as file:
        socket.send_fds(here, [b"x"], [file.fileno()])
        return on.act(lambda: executable_at(socket.recv_fds(there, 1, 1)[1][0], b"", [b"x", bytes(marker)]))


@attack("inherited descriptor", NAMELESS, STOPPED)
def inherited_descriptor(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts what its parent had opened before it was deleted."""
    with payload.open("rb") as file:
        payload.unlink()
        return on.act(lambda: executable_at(file.fileno(), b"", [b"x", bytes(marker)]))


@attack("path of more than 4,096 bytes", FAMILY, STOPPED, bypasses="what asks the kernel for the path")
def long_path(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts it twenty long directories deep: the kernel itself cannot name it."""

    def deed() -> None:
        down_deep(payload)
        os.execv(f"./{payload.name}", ["x", str(marker)])

    return on.act(deed)


def down_deep(payload: Path) -> None:
    """Move it below more directories than a path has room for, and go there."""
    place = os.open(payload.parent, os.O_PATH)
    os.chdir(place)
    for _ in range(20):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    os.rename(payload.name, payload.name, src_dir_fd=place)
    os.close(place)


@attack("hidden directory", FAMILY, STOPPED)
def hidden(on: Ground, payload: Path, marker: Path) -> Seen:
    """Runs a copy in a directory that a tmpfs was mounted over meanwhile: no path leads to it any more."""
    directory = payload.parent / "below"
    directory.mkdir()
    with tempfile.NamedTemporaryFile(dir=directory):
        copied = shutil.copy(payload, directory / "x")
        place = os.open(directory, os.O_PATH)
        try:
            with mounted("mptest", directory, "tmpfs"):
                return on.act(lambda: executable_at(place, os.fsencode(Path(copied).name), [b"x", bytes(marker)]))
        finally:
            os.close(place)
