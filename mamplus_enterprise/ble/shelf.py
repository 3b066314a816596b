# SPDX-License-Identifier: Apache-2.0
"""The files that the signed metadata names: lists, deltas and the policy, by hash.

    ble-<layer>/<sha256>.list.mble          custom {"generation", "entries", "root"}
    ble-<layer>/<sha256>.<FROM>-<TO>.delta  custom {"generation": TO, "from", "entries", "root"}; zlib
    policy/<sha256>.policy.json             custom {"version"}

`generation` is the layer's number, `root` the state root after it (docs/bundle-format.md).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api.metadata import TargetFile, Targets  # type: ignore[attr-defined]  # re-exported in its documents

from mamplus_host.ble.layer import Layer
from mamplus_host.files import put_in_place, sync_file, write_whole

LIST = "list.mble"
KEPT_DELTAS = 32  # a device that missed more takes the list
KEPT_LISTS = 2  # of a layer, the offered one included: a list may have half a gigabyte
POLICY = "policy/policy.json"
_DELTA = re.compile(r"([0-9]+)-([0-9]+)\.delta")
Content = bytes | Path  # a path's file is moved


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What makes one state of a layer out of an earlier one."""

    since: int  # number of the layer's state that it changes
    changes: int
    content: Content  # zlib-compressed


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChange:
    """The next state of a layer."""

    layer: Layer
    number: int
    entries: int
    root: bytes  # 32 bytes, state root
    full: Content
    delta: Delta | None = None


@dataclass(frozen=True, slots=True)
class LayerState:
    """What is offered of a layer; number 0: nothing yet."""

    number: int
    entries: int
    root: bytes
    sha256: str

    def file(self, folder: Path, layer: Layer) -> Path | None:
        """Return where the list lies below `folder`, None when nothing is offered."""
        return folder / layer.role / f"{self.sha256}.{LIST}" if self.number else None


def offered(role: Targets) -> LayerState:
    """Return what a layer's role names."""
    for name, target in role.targets.items():
        if name.endswith(f"/{LIST}"):
            custom = _custom(target)
            root = bytes.fromhex(str(custom["root"]))
            return LayerState(int(custom["generation"]), int(custom["entries"]), root, target.hashes["sha256"])
    return LayerState(0, 0, bytes(32), "")


def put(folder: Path, role: Targets, change: LayerChange) -> None:
    """Write the files of `change` below `folder` and name them in `role`; of the deltas the newest stay named."""
    root = change.root.hex()
    custom = {"generation": change.number, "entries": change.entries, "root": root}
    name = f"{change.layer.role}/{LIST}"
    role.targets[name] = _write(folder, name, change.full, custom)
    if change.delta is not None:
        delta = change.delta
        name = f"{change.layer.role}/{delta.since}-{change.number}.delta"
        custom = {"generation": change.number, "from": delta.since, "entries": delta.changes, "root": root}
        role.targets[name] = _write(folder, name, delta.content, custom)
    deltas = sorted((name for name in role.targets if _DELTA.fullmatch(name.split("/")[1])), key=_age)
    for name in deltas[:-KEPT_DELTAS]:
        del role.targets[name]


def put_policy(folder: Path, role: Targets, version: int, data: bytes) -> bool:
    """Write the policy and name it in `role`; False when that version is named already."""
    if is_policy(role, version):
        return False
    role.targets[POLICY] = _write(folder, POLICY, data, {"version": version})
    return True


def is_policy(role: Targets, version: int) -> bool:
    """Whether `role` names the policy of that version already."""
    before = role.targets.get(POLICY)
    return before is not None and int(_custom(before)["version"]) == version


def file_of(folder: Path, target: TargetFile) -> Path:
    """Return where a target lies."""
    directory, _, base = target.path.rpartition("/")
    return folder / directory / f"{target.hashes['sha256']}.{base}"


def prune(folder: Path, now: Targets, before: Iterable[Targets]) -> None:
    """Remove the files of one role that neither `now` nor the states `before` it name, and all but a few lists."""
    if not folder.is_dir():
        return
    older = list(before)
    kept = {file_of(folder.parent, target) for role in (now, *older) for target in role.targets.values()}
    lists = [target for role in (*older, now) for name, target in role.targets.items() if name.endswith(f"/{LIST}")]
    newest = list(dict.fromkeys(file_of(folder.parent, target) for target in reversed(lists)))
    kept -= set(newest[KEPT_LISTS:])
    for path in folder.iterdir():
        if path not in kept:
            path.unlink()


def _write(folder: Path, name: str, content: Content, custom: Mapping[str, Any]) -> TargetFile:
    if isinstance(content, Path):
        target = TargetFile.from_file(name, str(content), ["sha256"])
    else:
        target = TargetFile.from_data(name, content, ["sha256"])
    target.unrecognized_fields["custom"] = dict(custom)
    path = file_of(folder, target)
    path.parent.mkdir(mode=0o755, exist_ok=True)
    if isinstance(content, Path):
        sync_file(content)
        content.chmod(0o644)
        put_in_place(content, path)
    else:
        write_whole(path, content, mode=0o644)
    return target


def _custom(target: TargetFile) -> Mapping[str, Any]:
    custom: Mapping[str, Any] = target.custom
    return custom


def _age(name: str) -> tuple[int, int]:
    match = _DELTA.fullmatch(name.split("/")[1])
    assert match is not None  # the caller chose by it
    return int(match[2]), int(match[1])
