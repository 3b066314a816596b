# SPDX-License-Identifier: Apache-2.0
"""Container lock: the keys of the professional container leave the kernel's memory; the passphrase opens it again.

Journey: execute -> [container lock] -> luks, fscrypt, mounts.

A LUKS container is unmounted and closed. Where a program holds it, its mapping is suspended: the key is gone from
memory and whoever reads there waits until `cryptsetup luksResume`. The key of an encrypted directory is removed for
all users; files that are open stay readable until they are closed, and are reported. There is no inverse: only the
person knows the passphrase.
"""

import os
from pathlib import Path
from typing import Any

from mamplus_host.config import Container
from mamplus_host.errors import ActionFailed
from mamplus_host.executor.shape import Facts, State
from mamplus_host.executor.steps import step
from mamplus_host.executor.storage import fscrypt, luks, mounts
from mamplus_host.executor.storage.mounts import INIT
from mamplus_host.mountinfo import mounted
from mamplus_host.verdicts import ActionKind

OF_SYSTEM = ("/", "/boot", "/etc", "/usr", "/var", "/var/lib")  # where the device's own file systems are mounted


class ContainerLock:
    """The deed."""

    kind = ActionKind.CONTAINER_LOCK
    has_inverse = False
    is_slow = True

    def __init__(self, container: Container, *, sys_root: Path = Path("/sys"), process: Path = INIT) -> None:
        self._container, self._sys, self._process = container, sys_root, process

    def prepare(self, action_id: str, target: dict[str, Any]) -> Facts:
        """`target` says nothing: what is locked stands in the configuration."""
        if not (self._container.luks or self._container.fscrypt):
            raise ActionFailed("no professional container is configured that could be locked; see [container]")
        made_of = look(self._container, self._process, self._sys)
        if not (made_of["luks"] or made_of["fscrypt"]):
            raise ActionFailed(f"nothing was locked: {gone(made_of)}")
        return {"id": action_id, "because": str(target.get("reason", "")), **made_of}

    def do(self, facts: Facts) -> str:
        said = []
        for one in facts["luks"]:
            for name in luks.mappings(one["uuid"], self._sys):
                step("container.close")
                said.append(shut(name, self._process, self._sys))
        for one in facts["fscrypt"]:
            step("container.key")
            if fscrypt.remove(one["path"], one["key"]) is fscrypt.Key.BEING_REMOVED:
                said.append(f"files below {one['path']!r} are open and readable until they are closed")
        if facts.get("missing"):
            said.append(gone(facts))
        return "; ".join(["the professional container is locked", *said])

    def undo(self, facts: Facts) -> str:
        where = [one["path"] for one in (*facts["luks"], *facts["fscrypt"])]
        raise ActionFailed(f"only the passphrase opens {', '.join(where)} again: cryptsetup open, fscrypt unlock")

    def verify(self, facts: Facts) -> State:
        shut_ones = [_is_shut(one, self._sys) for one in facts["luks"]]
        shut_ones += [fscrypt.status(one["path"], one["key"]) is fscrypt.Key.ABSENT for one in facts["fscrypt"]]
        if all(shut_ones):
            return State.DONE
        return State.BETWEEN if any(shut_ones) else State.UNDONE


def look(container: Container, process: Path = INIT, sys_root: Path = Path("/sys")) -> dict[str, Any]:
    """Return what the container is made of, by names that outlive a boot; ActionFailed: it is not as configured.

    A medium that is not plugged in, or a file system that is not mounted, is `missing` and spares nothing else.
    """
    missing = [path for path in (*container.luks, *container.fscrypt) if not os.path.exists(path)]
    found = [{"path": path, "uuid": luks.uuid_of(path)} for path in container.luks if path not in missing]
    for one in found:
        refuse_system(one, process, sys_root)
    return {
        "luks": found,
        "fscrypt": [{"path": path, "key": fscrypt.key_of(path)} for path in container.fscrypt if path not in missing],
        "missing": missing,
    }


def gone(facts: dict[str, Any]) -> str:
    """Return words for what was not there when the container was looked at."""
    return f"not there: {', '.join(map(repr, facts['missing']))}; plug in or mount it, then say it again"


def refuse_system(one: dict[str, str], process: Path, sys_root: Path) -> None:
    """Raise ActionFailed for a container that the device itself runs from: without its key everything would stop."""
    names = set(luks.mappings(one["uuid"], sys_root))
    if not names:
        return
    for mount in mounted(process):
        if mount.point not in OF_SYSTEM:
            continue
        nodes = mounts.blocks_of(mount, process, sys_root)
        if names & {mount.source.removeprefix("/dev/mapper/")}.union(*map(_mappings_below, nodes)):
            raise ActionFailed(f"{one['path']!r} is not touched: the system's {mount.point!r} lies in it")


def _mappings_below(node: Path) -> set[str]:
    """Return the names of a block device and of what it is made of (LVM in LUKS), as far as they have one."""
    found, waiting, seen = set[str](), [node], set[str]()
    while waiting and len(seen) < 64:
        real = os.path.realpath(waiting.pop())
        if real not in seen:
            seen.add(real)
            found.add(luks.read(Path(real, "dm/name")))
            waiting += Path(real, "slaves").glob("*")
    return found - {""}


def shut(name: str, process: Path, sys_root: Path) -> str:
    """Unmount and close a mapping, or suspend it where it is held; return words."""
    if luks.is_suspended(name, sys_root):
        return f"{name!r} is suspended"
    for one in reversed(mounted(process)):
        if one.source == f"/dev/mapper/{name}":
            try:
                mounts.unmount(one.point, process)
            except ActionFailed:
                break  # held: suspending needs no unmount
    if luks.close(name):
        return f"{name!r} is closed"
    luks.suspend(name)
    return f"{name!r} was in use: suspended, its programs wait"


def _is_shut(one: dict[str, str], sys_root: Path) -> bool:
    return all(luks.is_suspended(name, sys_root) for name in luks.mappings(one["uuid"], sys_root))
