# SPDX-License-Identifier: Apache-2.0
"""Who started whom, in bounded memory."""

from mamplus_host.collector.lineage import Lineage
from mamplus_host.collector.past import Past
from mamplus_host.events import NO_SLOT, Exec, Exit, File, Fork, Head
from mamplus_host.verdicts import Verdict

FILE = File(1, 2, 3, 4, 5)


def past_of(tasks: int = 10) -> Past:
    return Past(tasks=tasks, events=10)


def head(tgid: int, ppid: int = 1, *, comm: str = "comm", flags: int = 0) -> Head:
    return Head(1, 2, 3, tgid, ppid, 1000, NO_SLOT, flags, Verdict.NOTHING, comm)


def test_ancestry_survives_the_end_of_the_tasks() -> None:
    past = past_of()
    past.note(Exec(head(10), FILE, "", "/bin/sh"))
    past.note(Fork(head(10), 11))
    past.note(Exec(head(11, 10), FILE, "", "/bin/rm"))
    past.note(Exit(head(11, 10), 0))

    found = Lineage(past).ancestry(11)
    assert [(task.path, task.is_alive) for task in found] == [("/bin/rm", False), ("/bin/sh", True)]


def test_a_fork_without_exec_is_its_parents_program() -> None:
    past = past_of()
    past.note(Exec(head(10), FILE, "", "/bin/sh"))
    past.note(Fork(head(10), 11))

    task = Lineage(past).task(11)

    assert task is not None
    assert (task.path, task.ppid) == ("/bin/sh", 10)


def test_memory_is_bounded_and_the_least_recently_seen_goes_first() -> None:
    past = past_of(3)
    for tgid in (1, 2, 3):
        past.note(Exec(head(tgid), FILE, "", f"/{tgid}"))
    past.note(Exit(head(1), 0))
    past.note(Exec(head(4), FILE, "", "/4"))

    lineage = Lineage(past)
    assert len(lineage) == 3
    assert lineage.task(2) is None
    assert lineage.task(1) is not None
    assert lineage.forgotten == 1


def test_a_loop_of_reused_pids_ends() -> None:
    past = past_of()
    past.note(Exec(head(5, 6), FILE, "", "/5"))
    past.note(Exec(head(6, 5), FILE, "", "/6"))

    assert [task.tgid for task in Lineage(past).ancestry(5)] == [5, 6]
