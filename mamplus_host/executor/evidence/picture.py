# SPDX-License-Identifier: Apache-2.0
"""A bounded picture of who and what an escalation is about, for the administrator.

Journey: execute -> [picture] -> outbox.

Plain JSON values. Text that programs choose (names, command lines, paths) is untrusted and
kept as it is; bytes that are no UTF-8 are shown escaped. What has ended already is missing
here: the pipeline adds what lineage remembers.
"""

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import msgspec

from mamplus_host.collector.sockets import inet_sockets
from mamplus_host.events import DnsQuery, Exec, FileAccess, FileChange, FileEvent, MassRewrite, Packet
from mamplus_host.executor.processes.tasks import cgroup_of, task
from mamplus_host.verdicts import Decision

MAX_ANCESTORS = 16
MAX_CMDLINE_BYTES = 4096
MAX_SOCKETS = 64
MAX_NAMED = 20  # files of a mass rewrite
MAX_HASH_BYTES = 64 << 20  # a larger file is described without its SHA-256


def collect(decision: Decision, scope: str = "/") -> dict[str, Any]:
    """Return the evidence about `decision`: `processes`, `sockets` and `file`, each where there is any.

    `scope`: the cgroup v2 path that the agent defends. Of processes outside of it only number, user and
    program leave the device: their command lines are nobody's business.
    """
    event = decision.event
    if isinstance(event, Packet | DnsQuery):
        return {}  # the head's task is whoever ran on that CPU
    tgid = event.tgid if isinstance(event, FileEvent) else event.head.tgid
    processes = [_without_secrets(process, scope) for process in ancestry(tgid)]
    found: dict[str, Any] = {"processes": processes}
    sockets = _sockets([process["pid"] for process in processes[:2]])
    if sockets:
        found["sockets"] = sockets
    if isinstance(event, Exec):
        found["file"] = _started(event)
    elif isinstance(event, FileAccess):
        found["file"] = _accessed(event)
    elif isinstance(event, FileChange):
        found["file"] = file_facts(event.path)
    elif isinstance(event, MassRewrite):
        found["files"] = _rewritten(event)
    return found


def _rewritten(event: MassRewrite) -> dict[str, Any]:
    first = [_text(os.fsencode(path)) for path in event.paths[:MAX_NAMED]]
    return {"known": len(event.paths), "first": first, "look_encrypted": event.scrambled, "stopped": event.stopped}


def _started(event: Exec) -> dict[str, Any]:
    """The program of a start; a process whose execve failed is still another program."""
    exe = f"/proc/{event.head.tgid}/exe"
    try:
        is_it = os.stat(exe).st_ino == event.file.ino
    except OSError:
        is_it = True  # it has ended: `file_facts` says so
    return {**file_facts(exe, event.sha256), "path": _text(os.fsencode(event.path))} if is_it else _as_seen(event)


def _accessed(event: FileAccess) -> dict[str, Any]:
    return {**_as_seen(event), "operation": event.op}


def _as_seen(event: Exec | FileAccess) -> dict[str, Any]:
    """The file as the kernel saw it: its path is not followed, another file may lie there by now."""
    return {
        "path": _text(os.fsencode(event.path)), "sha256": event.sha256,
        "size": event.file.size, "mode": stat.filemode(event.file.mode), "inode": event.file.ino,
    }  # fmt: skip


def _without_secrets(process: dict[str, Any], scope: str) -> dict[str, Any]:
    own = str(process.get("cgroup", ""))
    is_inside = own == scope or own.startswith(scope.rstrip("/") + "/")
    return process if is_inside else {name: value for name, value in process.items() if name != "cmdline"}


def ancestry(tgid: int) -> list[dict[str, Any]]:
    """Return the process and its ancestors, nearest first; empty when it has ended."""
    found: list[dict[str, Any]] = []
    while tgid > 0 and len(found) < MAX_ANCESTORS:
        known = task(tgid)
        if known is None:
            break
        found.append(_process(known.tgid, known.ppid, known.start_ns))
        tgid = known.ppid
    return found


def file_facts(path: str, sha256: str = "") -> dict[str, Any]:
    """Return what the file at `path` is now; hashes it (up to MAX_HASH_BYTES) when `sha256` is not given."""
    facts: dict[str, Any] = {"path": _text(os.fsencode(path))}
    try:
        found = os.stat(path)
        facts |= {
            "size": found.st_size, "mode": stat.filemode(found.st_mode), "uid": found.st_uid, "gid": found.st_gid,
            "mtime_ns": found.st_mtime_ns, "sha256": sha256 or _sha256(path, found),
        }  # fmt: skip
    except OSError as error:
        facts |= {"missing": error.strerror or "unreadable", "sha256": sha256}
    return facts


def _process(tgid: int, ppid: int, start_ns: int) -> dict[str, Any]:
    proc = f"/proc/{tgid}"
    facts: dict[str, Any] = {"pid": tgid, "ppid": ppid, "start_ns": start_ns}
    try:
        facts["uid"] = os.stat(proc).st_uid
        facts["cgroup"] = _text(os.fsencode(cgroup_of(tgid) or ""))
        with Path(proc, "cmdline").open("rb") as file:
            words = file.read(MAX_CMDLINE_BYTES).rstrip(b"\0").split(b"\0")
        facts["cmdline"] = [_text(word) for word in words]
        facts["exe"] = _text(os.readlink(os.fsencode(f"{proc}/exe")))
    except OSError:
        pass  # it ended meanwhile, or is a kernel thread without a program: what was read stays
    return facts


def _sockets(tgids: list[int]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for tgid in tgids:
        sockets = inet_sockets(tgid, limit=MAX_SOCKETS - len(found))
        found += [{"pid": tgid, **msgspec.structs.asdict(one)} for one in sockets]
    return found


def _sha256(path: str, found: os.stat_result) -> str:
    """Return the hash of a regular file; "" for anything else, which could block or have no end."""
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_HASH_BYTES:
        return ""
    digest = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(fd, "rb", buffering=0) as file:
        left = MAX_HASH_BYTES
        while left > 0 and (chunk := file.read(min(left, 1 << 20))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
