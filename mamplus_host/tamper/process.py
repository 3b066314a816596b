# SPDX-License-Identifier: Apache-2.0
"""What is done to the agent's process and the responder's: a tracer, another cgroup or OOM score, too little memory.

All of it is read from /proc and compared with the first look. What root can set back is set back.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from mamplus_host.config import CGROUP2_MOUNTS
from mamplus_host.executor.processes.tasks import cgroup_of
from mamplus_host.tamper.noticed import Noticed


class Process:
    """One process of ours."""

    def __init__(self, pid: int, name: str) -> None:
        self.pid, self._name = pid, name
        self._cgroup = cgroup_of(pid)
        self._oom = _read(pid, "oom_score_adj")
        self._oom_kills = self._count_oom_kills()
        self._tracer = 0

    def look(self) -> Iterator[Noticed]:
        """Yield what has changed since the last look."""
        for one in (self._look_for_tracer, self._look_at_cgroup, self._look_at_oom_score, self._look_at_oom_kills):
            detail, is_put_back = one()
            if detail:
                detail = f"{self._name} (pid {self.pid}) {detail}"
                yield Noticed(op="process", detail=detail, target=self.pid, is_put_back=is_put_back)

    def _look_for_tracer(self) -> tuple[str, bool]:
        status = _read(self.pid, "status")
        seen = int(status.partition("TracerPid:")[2].split(maxsplit=1)[0]) if "TracerPid:" in status else 0
        before, self._tracer = self._tracer, seen
        return (f"is traced by pid {seen}" if seen and seen != before else ""), False

    def _look_at_cgroup(self) -> tuple[str, bool]:
        seen = cgroup_of(self.pid)
        if seen is None or self._cgroup is None or seen == self._cgroup:
            return "", False
        detail = f"was moved from cgroup {self._cgroup!r} to {seen!r}"
        is_put_back = write(_cgroup_file(self._cgroup, "cgroup.procs"), str(self.pid))
        if not is_put_back:
            self._cgroup = seen  # told once
        return detail, is_put_back

    def _look_at_oom_score(self) -> tuple[str, bool]:
        seen = _read(self.pid, "oom_score_adj")
        if not seen or seen == self._oom:
            return "", False
        is_put_back = write(Path(f"/proc/{self.pid}/oom_score_adj"), self._oom)
        detail = f"had its oom_score_adj set from {self._oom.strip()} to {seen.strip()}"
        if not is_put_back:
            self._oom = seen
        return detail, is_put_back

    def _look_at_oom_kills(self) -> tuple[str, bool]:
        before, self._oom_kills = self._oom_kills, self._count_oom_kills()
        more = self._oom_kills - before
        return (
            f"shares its cgroup with {more} processes that were killed for lack of memory" if more > 0 else ""
        ), False

    def _count_oom_kills(self) -> int:
        try:
            events = _cgroup_file(self._cgroup or "/", "memory.events").read_text()
        except OSError:  # the root cgroup has none
            return 0
        counts = dict(line.split() for line in events.splitlines())
        return int(counts.get("oom_kill", 0))


def _cgroup_file(cgroup: str, name: str) -> Path:
    mount = next(
        (Path(one) for one in CGROUP2_MOUNTS if Path(one, "cgroup.controllers").exists()), Path("/sys/fs/cgroup")
    )
    return mount / cgroup.lstrip("/") / name


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


def write(path: Path, text: str) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(descriptor, text.encode())
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
