# SPDX-License-Identifier: Apache-2.0
"""Which mount is meant, what it lies on, and changes to it through a short-lived helper.

Journey: mount, usb, luks, wipe -> [mounts] -> mountinfo, mount_helper.
"""

import os
from pathlib import Path

from mamplus_host.executor import helper
from mamplus_host.mountinfo import FLAGS, Mount, mounted

INIT = Path("/proc/1")  # whose mounts are meant
HELPER_S = 30.0


def at(point: str, process: Path = INIT) -> Mount | None:
    """Return what is mounted on top at `point`."""
    return next((one for one in reversed(mounted(process)) if one.point == point), None)


def of_device(device: str, process: Path = INIT) -> Mount | None:
    """Return a mount of the file system on `device` (major:minor) that nothing is mounted over, of its root if any."""
    on_top = {one.point: one for one in mounted(process)}.values()
    found = [one for one in on_top if one.device == device]
    return max(found, key=lambda one: one.root == "/", default=None)


def carrying(path: str | Path, process: Path = INIT) -> Mount | None:
    """Return the mount that `path` lies on, seen from where `process` lives; links and `..` are followed here."""
    real = Path(os.path.realpath(path))
    above = [one for one in mounted(process) if real.is_relative_to(one.point)]
    return max(reversed(above), key=lambda one: len(one.point), default=None)


def blocks_of(mount: Mount, process: Path = INIT, sys_root: Path = Path("/sys")) -> list[Path]:
    """Return the block devices that a file system lies on, as places in `sys_root`; none where it has none.

    A btrfs has a number that no device has. Its source names one of its devices, sysfs the others. Only there: of FUSE,
    who mounts picks the source.
    """
    node = sys_root / "dev/block" / mount.device
    if node.exists() or mount.kind != "btrfs":
        return [node] if node.exists() else []
    try:
        number = os.stat(process / "root" / mount.source.lstrip("/")).st_rdev
    except OSError:
        return []
    node = Path(os.path.realpath(sys_root / "dev/block" / f"{os.major(number)}:{os.minor(number)}"))
    pools = ([Path(os.path.realpath(one)) for one in pool.iterdir()] for pool in sys_root.glob("fs/btrfs/*/devices"))
    return next((pool for pool in pools if node in pool), [node])


def set_flags(mount: Mount, flags: int, process: Path = INIT) -> None:
    """Give this mount alone these flags; ActionFailed says why the kernel does not."""
    _run(process, f"change the mount at {mount.point!r}", "flags", mount.point, str(flags))


def unmount(point: str, process: Path = INIT, *, is_lazy: bool = False) -> None:
    _run(process, f"unmount {point!r}", "unmount", point, *(["lazy"] if is_lazy else []))


def mount_again(mount: Mount, process: Path = INIT) -> None:
    """Mount what was at `mount.point` again, as it was."""
    read_only = FLAGS["ro"] if mount.super_options.split(",")[0] == "ro" else 0
    options = ",".join(word for word in mount.super_options.split(",") if word not in ("ro", "rw", "seclabel"))
    words = (mount.source, mount.point, mount.kind, str((mount.flags & ~FLAGS["ro"]) | read_only), options)
    _run(process, f"mount {mount.source!r} at {mount.point!r}", "mount", *words)


def within(process: Path) -> list[str]:
    """Return what a command line begins with that is to run in the mount namespace of `process`."""
    return helper.line("storage.mount_helper", str(process / "ns/mnt"), "run")


def _run(process: Path, what: str, *words: str) -> None:
    late = f"cannot {what}: the kernel did not answer within {HELPER_S:g} s"
    helper.run(
        "storage.mount_helper", str(process / "ns/mnt"), *words, within_s=HELPER_S, late=late, what=f"cannot {what}: "
    )
