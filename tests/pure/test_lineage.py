# SPDX-License-Identifier: Apache-2.0
"""Who started whom, in bounded memory."""

from mamplus_host.collector.lineage import Lineage
from mamplus_host.events import NO_SLOT, Exec, Exit, File, Fork, Head
from mamplus_host.verdicts import Verdict

FILE = File(1, 2, 3, 4, 5)


def head(tgid: int, ppid: int = 1, *, comm: str = "comm", flags: int = 0) -> Head:
    return Head(1, 2, 3, tgid, ppid, 1000, NO_SLOT, flags, Verdict.NOTHING, comm)


def test_ancestry_survives_the_end_of_the_tasks() -> None:
    lineage = Lineage(10)
    lineage.note(Exec(head(10), FILE, "", "/bin/sh"))
    lineage.note(Fork(head(10), 11))
    lineage.note(Exec(head(11, 10), FILE, "", "/bin/rm"))
    lineage.note(Exit(head(11, 10), 0))

    assert [(task.path, task.is_alive) for task in lineage.ancestry(11)] == [("/bin/rm", False), ("/bin/sh", True)]


def test_a_fork_without_exec_is_its_parents_program() -> None:
    lineage = Lineage(10)
    lineage.note(Exec(head(10), FILE, "", "/bin/sh"))
    lineage.note(Fork(head(10), 11))

    task = lineage.task(11)

    assert task is not None
    assert (task.path, task.ppid) == ("/bin/sh", 10)


def test_memory_is_bounded_and_the_least_recently_seen_goes_first() -> None:
    lineage = Lineage(3)
    for tgid in (1, 2, 3):
        lineage.note(Exec(head(tgid), FILE, "", f"/{tgid}"))
    lineage.note(Exit(head(1), 0))
    lineage.note(Exec(head(4), FILE, "", "/4"))

    assert len(lineage) == 3
    assert lineage.task(2) is None
    assert lineage.task(1) is not None
    assert lineage.forgotten == 1


def test_a_loop_of_reused_pids_ends() -> None:
    lineage = Lineage(10)
    lineage.note(Exec(head(5, 6), FILE, "", "/5"))
    lineage.note(Exec(head(6, 5), FILE, "", "/6"))

    assert [task.tgid for task in lineage.ancestry(5)] == [5, 6]
