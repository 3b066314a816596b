# SPDX-License-Identifier: Apache-2.0
"""Who started whom, from exec, fork and exit events, in bounded memory.

Journey: ring -> past -> [lineage] -> analyzer.

A task is remembered after its end, because what it did (a deleted file, say) is often
told later than that it ended. Where too many are known the least recently seen went first (`past.py`).
Tasks older than the agent are looked up in /proc by `executor/evidence/picture.py` instead.
"""

import msgspec

from mamplus_host.collector.past import Past
from mamplus_host.events import Exec, File, FileEvent


class Task(msgspec.Struct, frozen=True, gc=False):
    """What is known of one process (thread group)."""

    tgid: int
    ppid: int
    uid: int
    comm: str  # untrusted
    path: str = ""  # as given to execve; "" while only its fork was seen
    sha256: str = ""
    flags: int = 0  # MAMPLUS_F_ of its exec
    file: File | None = None
    exec_boot_ns: int = 0
    is_alive: bool = True


class Lineage:
    """The tasks seen so far, as `past` has them."""

    def __init__(self, past: Past) -> None:
        self._past = past

    def __len__(self) -> int:
        return self._past.tasks

    @property
    def forgotten(self) -> int:
        return self._past.forgotten

    def task(self, tgid: int) -> Task | None:
        """Return what is known of `tgid`, dead or alive."""
        found = self._past.task(tgid)
        if found is None:
            return None
        event, ppid, is_alive = found
        assert not isinstance(event, FileEvent)
        head = event.head
        if not isinstance(event, Exec):
            return Task(tgid, ppid, head.uid, head.comm, is_alive=is_alive)
        return Task(
            tgid, ppid, head.uid, head.comm, event.path, event.sha256, head.flags, event.file, head.boot_ns, is_alive
        )

    def ancestry(self, tgid: int, *, limit: int = 16) -> list[Task]:
        """Return the task and its known ancestors, nearest first; at most `limit`."""
        chain: list[Task] = []
        seen: set[int] = set()
        while len(chain) < limit and tgid not in seen and (task := self.task(tgid)) is not None:
            seen.add(tgid)
            chain.append(task)
            tgid = task.ppid
        return chain
