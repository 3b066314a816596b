# SPDX-License-Identifier: Apache-2.0
"""LUKS2 containers through cryptsetup(8): which, open or not, closed, and their key slots destroyed.

Journey: container lock, wipe -> [luks] -> cryptsetup, sysfs.

A container without key slots is noise: no passphrase, no backup of a passphrase opens it. Only a backup of its header
does, so whoever made one keeps the way in; docs/actions.md says so.
"""

import json
import subprocess
from pathlib import Path

from mamplus_host.errors import ActionFailed
from mamplus_host.executor import helper
from mamplus_host.executor.storage import mounts

TOOL_S = 60.0
_MAX_MAPPINGS = 256


def uuid_of(path: str) -> str:
    """Return the UUID of the LUKS2 container at `path`; ActionFailed when it is none."""
    done = run("isLuks", "--type", "luks2", path)
    if done.returncode:
        raise ActionFailed(f"{path!r} is no LUKS2 container; see [container] luks, and cryptsetup luksDump")
    return run("luksUUID", path).stdout.strip()


def is_there(path: str, uuid: str) -> bool:
    """Whether `path` is still the container with that UUID."""
    done = run("luksUUID", path)
    return done.returncode == 0 and done.stdout.strip() == uuid


def key_slots(path: str) -> int:
    """Return how many key slots the container has; 0 when there is no header any more."""
    done = run("luksDump", "--dump-json-metadata", path)
    return len(json.loads(done.stdout).get("keyslots", {})) if done.returncode == 0 else 0


def erase(path: str, process: Path) -> None:
    """Destroy all key slots; may be repeated. An image may be read-only but where `process` (1) lives."""
    done = run("luksErase", "--batch-mode", path, process=process)
    if done.returncode:
        raise ActionFailed(f"cryptsetup does not erase {path!r}: {_words(done)}")


def mappings(uuid: str, sys_root: Path = Path("/sys")) -> list[str]:
    """Return the names under which the container is open, in /dev/mapper."""
    found = []
    for place in sorted((sys_root / "block").glob("dm-*"))[:_MAX_MAPPINGS]:
        kind = read(place / "dm/uuid")
        if kind.startswith("CRYPT-LUKS2-" + uuid.replace("-", "") + "-"):
            found.append(read(place / "dm/name"))
    return found


def is_suspended(name: str, sys_root: Path = Path("/sys")) -> bool:
    """Whether the mapping is frozen and its key out of the kernel's memory."""
    return any(
        read(place / "dm/name") == name and read(place / "dm/suspended") == "1"
        for place in (sys_root / "block").glob("dm-*")
    )


def close(name: str) -> bool:
    """Close a mapping; False when it is in use."""
    return run("close", name).returncode == 0


def suspend(name: str) -> None:
    """Take the key of a mapping out of the kernel's memory; whoever reads or writes there waits without end."""
    done = run("luksSuspend", name)
    if done.returncode:
        raise ActionFailed(f"cryptsetup does not suspend {name!r}: {_words(done)}")


def run(*words: str, process: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run cryptsetup, in the mount namespace of `process` if it is given; ActionFailed when it is missing or hangs."""
    inside = mounts.within(process) if process is not None else []
    try:
        done = helper.program([*inside, "cryptsetup", *words], within_s=TOOL_S)
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)
    except FileNotFoundError:
        raise ActionFailed("cryptsetup is not installed; install cryptsetup-bin") from None
    except subprocess.TimeoutExpired:
        raise ActionFailed(f"cryptsetup {words[0]} took more than {TOOL_S:g} s") from None


def _words(done: "subprocess.CompletedProcess[str]") -> str:
    return (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]


def read(path: Path) -> str:
    """Return a word of sysfs, "" when it is not there."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
