# SPDX-License-Identifier: Apache-2.0
"""An event as people and machines read it on the command line: flat, plain values."""

from typing import Any

from mamplus_host.events import Event, Exec, Exit, FileAccess, FileEvent, Fork
from mamplus_host.jsonlines import to_builtins
from mamplus_host.kernel import layout

_FLAGS = {
    layout.F_REFUSED: "refused",
    layout.F_MONITOR: "would-be-refused",
    layout.F_UNKNOWN: "unknown-file",
    layout.F_HELD: "held",
    layout.F_WORLD_WRITABLE: "world-writable-directory",
    layout.F_DECLARED: "declared-answer",
    layout.F_INGRESS: "inwards",
    layout.F_DELETED: "deleted-file",
    layout.F_ACTED: "action-in-force",
}


def event_view(event: Event, kind: str) -> dict[str, Any]:
    """Return `event` as one flat dictionary; `kind` is the pipeline's name for it."""
    if isinstance(event, FileEvent):
        return {"kind": kind, **to_builtins(event)}
    head = event.head
    view: dict[str, Any] = {
        "kind": kind, "boot_ns": head.boot_ns, "pid": head.tgid, "ppid": head.ppid, "uid": head.uid, "comm": head.comm,
        "verdict": head.verdict.name.lower(), "generation": head.generation, "cgroup_id": head.cgroup_id,
        "flags": [name for bit, name in _FLAGS.items() if head.flags & bit],
    }  # fmt: skip
    own = {name: value for name, value in to_builtins(event).items() if name != "head"}
    if not isinstance(event, Exec | Exit | FileAccess | Fork):
        return {**view, **own}
    file = own.pop("file", None)
    return {**view, **own, **({"inode": file["ino"], "size": file["size"]} if file else {})}
