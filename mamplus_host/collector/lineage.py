# SPDX-License-Identifier: Apache-2.0
"""Who started whom, from exec, fork and exit events, in bounded memory.

Journey: ring -> decode -> [lineage] -> analyzer.

A task is remembered after its end, because what it did (a deleted file, say) is often
told later than that it ended. Above `max_tasks` the least recently seen go first.
Tasks older than the agent are looked up in /proc by `executor/evidence.py` instead.
"""

from collections import OrderedDict

import msgspec

from mamplus_host.events import Event, Exec, Exit, File, Fork, Head


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
    """The tasks seen so far."""

    def __init__(self, max_tasks: int) -> None:
        self._max_tasks = max_tasks
        self._tasks: OrderedDict[int, Task] = OrderedDict()
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._tasks)

    def note(self, event: Event) -> None:
        """Take in an event; those that say nothing about tasks are ignored."""
        if isinstance(event, Exec):
            self._note_exec(event)
        elif isinstance(event, Fork):
            self._put(self._inherit(event))
        elif isinstance(event, Exit):
            known = self._tasks.get(event.head.tgid)
            self._put(msgspec.structs.replace(known or _bare(event.head), is_alive=False))

    def task(self, tgid: int) -> Task | None:
        """Return what is known of `tgid`, dead or alive."""
        return self._tasks.get(tgid)

    def ancestry(self, tgid: int, *, limit: int = 16) -> list[Task]:
        """Return the task and its known ancestors, nearest first; at most `limit`."""
        chain: list[Task] = []
        seen: set[int] = set()
        while len(chain) < limit and tgid not in seen and (task := self._tasks.get(tgid)) is not None:
            seen.add(tgid)
            chain.append(task)
            tgid = task.ppid
        return chain

    def _note_exec(self, event: Exec) -> None:
        head = event.head
        self._put(
            Task(
                tgid=head.tgid, ppid=head.ppid, uid=head.uid, comm=head.comm, path=event.path, sha256=event.sha256,
                flags=head.flags, file=event.file, exec_boot_ns=head.boot_ns,
            )
        )  # fmt: skip

    def _inherit(self, event: Fork) -> Task:
        parent = self._tasks.get(event.head.tgid) or _bare(event.head)
        return msgspec.structs.replace(parent, tgid=event.child_tgid, ppid=event.head.tgid, is_alive=True)

    def _put(self, task: Task) -> None:
        self._tasks[task.tgid] = task
        self._tasks.move_to_end(task.tgid)
        if len(self._tasks) > self._max_tasks:
            self._tasks.popitem(last=False)
            self.forgotten += 1


def _bare(head: Head) -> Task:
    return Task(tgid=head.tgid, ppid=head.ppid, uid=head.uid, comm=head.comm)
