# SPDX-License-Identifier: Apache-2.0
"""Golden copies on real file systems: every kind of damage, put back to the last attribute."""

import fcntl
import mmap
import os
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mamplus_host.clock import SystemClock
from mamplus_host.config import Limits
from mamplus_host.errors import VaultError
from mamplus_host.executor.vault import files as vault_files
from mamplus_host.executor.vault import lost as vault_lost
from mamplus_host.executor.vault.vault import Vault
from story.stage import wait_for
from tests.kernel.acts import Clock

pytestmark = pytest.mark.kernel

CONTENT = bytes(range(256)) * 41
CAPABILITY = struct.pack("<5I", 0x02000000 | 1, 1 << 10, 0, 0, 0)  # v2, effective, cap_net_bind_service
# user::rw-, user:1234:rw-, group::r--, mask::rw-, other::---: linux/posix_acl_xattr.h
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 6, 0xFFFFFFFF), (2, 6, 1234), (4, 4, 0xFFFFFFFF), (0x10, 6, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF))
)


@pytest.fixture
def golden(place: Path) -> Path:
    """A file with everything that a file can have."""
    path = place / "app" / "etc" / "app.conf"
    path.parent.mkdir(parents=True)
    os.chown(path.parent, 12, 34)
    path.parent.chmod(0o2751)
    path.write_bytes(CONTENT)
    os.chown(path, 1001, 1002)
    path.chmod(0o6750)
    os.setxattr(path, "user.origin", b"deployed\0binary\xff")
    os.setxattr(path, "security.capability", CAPABILITY)
    os.setxattr(path, "system.posix_acl_access", ACL)
    os.setxattr(path, "trusted.mamplus", b"t")
    os.utime(path, ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321))
    return path


def picture(path: Path) -> dict[str, object]:
    """Everything that must be as before, read without changing it."""
    found = os.stat(path, follow_symlinks=False)
    fd = os.open(path, os.O_RDONLY | os.O_NOATIME | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        content = file.read()
    return {
        "content": content, "mode": found.st_mode, "owner": (found.st_uid, found.st_gid),
        "mtime": found.st_mtime_ns, "atime": found.st_atime_ns,
        "xattrs": {name: os.getxattr(path, name) for name in os.listxattr(path)},
    }  # fmt: skip


def rename_over(path: Path) -> None:
    other = path.with_name("evil")
    other.write_bytes(b"evil")
    other.replace(path)


def become_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def become_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("x")


def become_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def same_size_and_times(path: Path) -> None:
    times = path.stat()
    with path.open("r+b") as file:
        file.write(b"X")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "overwrite": lambda path: path.write_bytes(b"evil"),
    "same-size-and-times": same_size_and_times,
    "append": lambda path: path.open("ab").write(b"evil"),
    "truncate": lambda path: os.truncate(path, 0),
    "delete": lambda path: path.unlink(),
    "rename-away": lambda path: path.rename(path.with_name("away")),
    "rename-over": rename_over,
    "chmod": lambda path: path.chmod(0o777),
    "chown": lambda path: os.chown(path, 0, 0),
    "touch": os.utime,
    "xattr-changed": lambda path: os.setxattr(path, "user.origin", b"evil"),
    "xattr-added": lambda path: os.setxattr(path, "user.more", b"evil"),
    "acl-removed": lambda path: os.removexattr(path, "system.posix_acl_access"),
    "capability-removed": lambda path: os.removexattr(path, "security.capability"),
    "link": become_link,
    "directory": become_directory,
    "fifo": become_fifo,
    "directory-deleted": lambda path: shutil.rmtree(path.parent.parent),
    "directory-moved": lambda path: path.parent.rename(path.parent.with_name("moved")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_noticed_and_put_back_to_the_last_attribute(vault: Vault, golden: Path, damage: str) -> None:
    before = picture(golden)
    vault.protect(golden)
    assert vault.intact(str(golden))

    DAMAGES[damage](golden)
    assert not vault.intact(str(golden))
    vault.restore(golden)

    assert picture(golden) == before
    assert vault.intact(str(golden))
    assert not list(golden.parent.glob(vault_files.TEMPORARY + "*"))
    found = golden.parent.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (12, 34, 0o2751)


def test_a_golden_file_is_intact_after_it_was_read(vault: Vault, golden: Path) -> None:
    vault.protect(golden)
    golden.read_bytes()
    os.utime(golden, ns=(5, golden.stat().st_mtime_ns))

    assert vault.intact(str(golden))


def test_a_write_through_a_mapping_that_leaves_all_times_alone_is_noticed(vault: Vault, golden: Path) -> None:
    with golden.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[3] = CONTENT[3]  # the first write is a page fault, which sets the times; later ones are not
        vault.protect(golden)
        before = golden.stat()
        mapping[3] = 0x58
        if b"tmpfs" in subprocess.check_output(["stat", "-f", "-c", "%T", golden]):  # elsewhere a disk was written to
            assert (golden.stat().st_mtime_ns, golden.stat().st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)

        assert not vault.intact(str(golden))


def test_the_replaced_content_is_kept_and_can_be_put_back(vault: Vault, golden: Path) -> None:
    vault.protect(golden)
    golden.write_bytes(b"a legitimate update")
    golden.chmod(0o600)
    changed = picture(golden)

    restored = vault.restore(golden)
    assert picture(golden)["content"] == CONTENT
    vault.put_back(str(golden), restored.replaced)

    assert picture(golden) == changed


def test_an_older_version_can_be_asked_for_and_is_what_is_protected_then(
    vault: Vault, golden: Path, clock: Clock
) -> None:
    vault.protect(golden)
    between = clock.wall_s()
    golden.write_bytes(b"second")
    vault.protect(golden)

    vault.restore(golden, at=between)

    assert golden.read_bytes() == CONTENT
    assert vault.intact(str(golden))
    with pytest.raises(VaultError, match=r"no golden copy of .* as of 5 s"):
        vault.restore(golden, at=5)


def test_a_directory_that_became_a_link_is_not_followed(vault: Vault, golden: Path, place: Path) -> None:
    vault.protect(golden)
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / golden.name).write_text("another's file")
    shutil.rmtree(golden.parent)
    golden.parent.symlink_to(elsewhere)

    assert not vault.intact(str(golden))
    restored = vault.restore(golden)

    assert (elsewhere / golden.name).read_text() == "another's file"
    assert not golden.parent.is_symlink()
    assert golden.read_bytes() == CONTENT
    assert "was something else" in restored.note


def test_what_inherits_from_the_directory_is_not_left_on_a_restored_file(vault: Vault, golden: Path) -> None:
    os.removexattr(golden, "system.posix_acl_access")
    before = picture(golden)
    vault.protect(golden)
    os.setxattr(golden.parent, "system.posix_acl_default", ACL)
    golden.unlink()

    vault.restore(golden)

    assert picture(golden) == before


def test_a_tree_comes_back_with_its_directories_and_links_and_without_what_is_no_file(
    vault: Vault, place: Path
) -> None:
    tree = place / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "empty").mkdir(mode=0o1750)
    os.chown(tree / "empty", 12, 34)
    os.setxattr(tree / "empty", "user.label", b"kept")
    files = [tree / "a", tree / "below" / "b", tree / "below" / "name\udcff"]
    for path in files:
        path.write_bytes(b"content")
    (tree / "link").symlink_to("a")
    os.chown(tree / "link", 56, 78, follow_symlinks=False)
    os.mkfifo(tree / "fifo")
    wanted = [tree, tree / "below", tree / "empty", *files, tree / "link"]
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tree / "socket"))
        assert sorted(vault.protect(tree)) == sorted(map(str, wanted))

    shutil.rmtree(tree)
    for path in wanted:
        assert not vault.intact(str(path))
        vault.restore(path)
        assert vault.intact(str(path))
    assert all(path.read_bytes() == b"content" for path in files)
    assert os.readlink(tree / "link") == "a"
    assert (os.lstat(tree / "link").st_uid, os.lstat(tree / "link").st_gid) == (56, 78)
    empty = os.lstat(tree / "empty")
    assert (empty.st_uid, empty.st_gid, empty.st_mode & 0o7777) == (12, 34, 0o1750)
    assert os.getxattr(tree / "empty", "user.label") == b"kept"
    assert sorted(vault.unprotect(tree)) == sorted(map(str, wanted))
    assert vault.list() == []
    with pytest.raises(VaultError, match="is not protected"):
        vault.unprotect(tree)


def test_a_link_is_refused_and_its_target_is_named(vault: Vault, golden: Path) -> None:
    link = golden.with_name("link")
    link.symlink_to(golden)

    with pytest.raises(VaultError, match=f"is a link; protect what it points to: {str(golden)!r}"):
        vault.protect(link)


def small_vault(tmp_path: Path, clock: Clock, **limits: int) -> Vault:
    return Vault(tmp_path / "small", limits=Limits(**limits), clock=clock)


def test_a_file_or_tree_above_the_limits_is_refused_by_the_name_of_the_limit(
    tmp_path: Path, golden: Path, clock: Clock
) -> None:
    one = small_vault(tmp_path, clock, protected_file_bytes=1000)
    with pytest.raises(VaultError, match=r"\[limits\] protected_file_bytes"):
        one.protect(golden)
    one.close()
    one = small_vault(tmp_path, clock, vault_bytes=len(CONTENT) + 100)
    golden.with_name("second").write_bytes(b"x" * 200)
    with pytest.raises(VaultError, match=r"\[limits\] vault_bytes"):
        one.protect(golden.parent)
    assert one.list() == []
    one.close()


def test_replaced_contents_make_room_oldest_first_and_golden_ones_never_go(
    tmp_path: Path, golden: Path, clock: Clock
) -> None:
    one = small_vault(tmp_path, clock, vault_bytes=len(CONTENT) + 5000)
    one.protect(golden)
    for letter in b"abc":
        golden.write_bytes(bytes([letter]) * 2000)
        one.restore(golden)

    kept = [version.kind for version in one.versions(golden)]
    assert sorted(kept) == ["golden", "replaced", "replaced"]
    golden.write_bytes(b"z" * 6000)
    restored = one.restore(golden)
    assert (restored.replaced, one.not_kept) == (0, 1)
    assert "is not kept" in restored.note
    assert golden.read_bytes() == CONTENT
    used = sum(path.stat().st_size for path in (tmp_path / "small" / "objects").iterdir())
    assert used <= len(CONTENT) + 5000
    one.close()


def test_an_object_that_is_gone_is_an_error_in_words_and_the_file_stays(
    vault: Vault, golden: Path, tmp_path: Path
) -> None:
    vault.protect(golden)
    golden.write_bytes(b"damaged")
    shutil.rmtree(tmp_path / "vault" / "objects")
    (tmp_path / "vault" / "objects").mkdir()

    with pytest.raises(VaultError, match="protect the file again"):
        vault.restore(golden)
    assert golden.read_bytes() == b"damaged"


def test_the_vault_survives_a_new_agent_and_drops_unfinished_copies(
    vault: Vault, golden: Path, tmp_path: Path, clock: Clock
) -> None:
    vault.protect(golden)
    vault.suspend(str(golden))
    vault.close()
    leftover = tmp_path / "vault" / "objects" / ".new-0123"
    leftover.write_bytes(b"half")

    again = Vault(tmp_path / "vault", limits=Limits(), clock=clock)
    assert not leftover.exists()
    assert [(one.path, one.suspended) for one in again.list()] == [(str(golden), True)]
    golden.unlink()
    again.restore(golden)
    assert golden.read_bytes() == CONTENT
    assert not again.is_suspended(str(golden))
    with sqlite3.connect(tmp_path / "vault" / "index.sqlite") as index:
        assert index.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    again.close()


def test_an_interrupted_restoration_leaves_nothing_behind_after_the_sweep(vault: Vault, golden: Path) -> None:
    vault.protect(golden)
    (golden.parent / f"{vault_files.TEMPORARY}0123").write_text("half")
    (golden.parent / "other").write_text("another's")

    vault.sweep_all()

    assert sorted(path.name for path in golden.parent.iterdir()) == ["app.conf", "other"]


def test_a_file_that_cannot_be_put_back_is_an_error_in_words(vault: Vault, golden: Path, place: Path) -> None:
    vault.protect(golden)
    golden.write_bytes(b"damaged")
    subprocess.run(["mount", "--bind", str(place), str(place)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(place)], check=True)
        with pytest.raises(VaultError, match=r"cannot put .* back: .*Read-only"):
            vault.restore(golden)
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert golden.read_bytes() == b"damaged"


def test_times_and_names_that_no_index_can_hold_do_not_stop_a_restoration(vault: Vault, golden: Path) -> None:
    vault.protect(golden)
    before = picture(golden)
    golden.write_bytes(b"damaged")
    os.setxattr(golden, b"user.\xff", b"no UTF-8")
    os.utime(golden, (10_000_000_000, 10_000_000_000))  # the year 2286: its nanoseconds are more than 63 bits

    vault.restore(golden)

    assert picture(golden) == before


def test_a_clock_that_is_set_back_does_not_bring_back_what_was_replaced(
    vault: Vault, golden: Path, clock: Clock
) -> None:
    clock.wall -= 500_000
    golden.write_bytes(b"what an update brought")

    assert vault.accept(str(golden))

    assert vault.intact(str(golden))
    vault.place(str(golden))
    assert golden.read_bytes() == b"what an update brought"


def put_aside_with(vault: Vault, directory: Path, damage: Callable[[sqlite3.Connection, Path], object]) -> Vault:
    """Damage the index of a vault, and return the one that is begun in its place."""
    vault.close()
    with sqlite3.connect(directory / "index.sqlite") as index:
        index.execute("PRAGMA journal_mode=DELETE")  # all of it is in one file
        damage(index, directory / "index.sqlite")
    return Vault(directory, limits=Limits(), clock=SystemClock())


def one_page(index: sqlite3.Connection, path: Path) -> None:
    ((root,),) = index.execute("SELECT rootpage FROM sqlite_master WHERE name = 'objects'").fetchall()
    ((size,),) = index.execute("PRAGMA page_size").fetchall()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)


def all_of_it(_index: sqlite3.Connection, path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


@pytest.mark.parametrize(("damage", "named"), [(one_page, True), (all_of_it, False)])
def test_of_a_damaged_vault_is_told_what_was_lost_until_it_was_told(
    vault: Vault, golden: Path, tmp_path: Path, damage: Callable[[sqlite3.Connection, Path], object], named: bool
) -> None:
    vault.protect(golden)
    assert list(vault_lost.untold(tmp_path, SystemClock())) == []

    put_aside_with(vault, tmp_path / "vault", damage).close()

    ((directory, alert),) = vault_lost.untold(tmp_path, SystemClock())
    assert directory == tmp_path / "vault.damaged"
    assert alert.evidence["paths"] == ([str(golden)] if named else [])
    assert (alert.evidence["contents"], alert.evidence["bytes"]) == (1, len(CONTENT))
    ((_directory, again),) = vault_lost.untold(tmp_path, SystemClock())
    assert again.id == alert.id  # a crash before it was noted: the same alert, which the outbox knows
    vault_lost.note_told(directory)
    assert list(vault_lost.untold(tmp_path, SystemClock())) == []


def test_whoever_opens_a_file_while_it_is_asked_about_goes_on_and_ends_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, told = tmp_path / "file", list[int]()
    path.write_text("x")
    before = {
        one: signal.signal(one, lambda number, _frame: told.append(number)) for one in (signal.SIGIO, signal.SIGURG)
    }
    writers: list[subprocess.Popen[bytes]] = []
    real = fcntl.fcntl

    def while_another_opens(fd: int, command: int, argument: int) -> int:
        if (command, argument) == (fcntl.F_SETLEASE, fcntl.F_UNLCK):
            writers.append(subprocess.Popen(["/bin/sh", "-c", f"echo y >{path}"]))
            wait_for("the lease to be asked back", lambda: bool(told))
        return real(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", while_another_opens)
    fd = vault_files.look(str(path))
    assert not vault_files.has_writers(fd)
    os.close(fd)

    assert writers[0].wait(20) == 0
    assert told == [signal.SIGURG]  # SIGIO ends who does not expect it
    for number, handler in before.items():
        signal.signal(number, handler)
