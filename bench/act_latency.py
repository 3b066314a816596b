# SPDX-License-Identifier: Apache-2.0
"""How long from a confirmed alert to its action done, at 1,000 alerts a second?

Real processes are killed by the whole pipeline: events are handed to it as the ring does, in batches as they
come, and each outcome says when its process had ended. The peer is the plainest thing that acts: a loop
that gets the same events and sends SIGKILL, without a journal, a guard, an alert or an escalation.

Victims wait in a cgroup of our own. Each is born before the measured time, for a start would be measured, too. They
are programs that were started, as listed ones are: of 1,000 forks of one process the first hundred take five times as
long to end as the others.
"""

import argparse
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import report
from bench.rig import own_cgroup
from mamplus_host import memory
from mamplus_host.clock import DeviceClock
from mamplus_host.config import Config, Limits, Paths, Scope
from mamplus_host.events import Exec, File, Head
from mamplus_host.executor.alertlog import AlertLog
from mamplus_host.executor.disarm import Disarmed
from mamplus_host.executor.execute import Executor, Planned
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.journal import Journal
from mamplus_host.executor.vault.vault import Vault
from mamplus_host.outbox.store import Outbox
from mamplus_host.pipeline import Pipeline
from mamplus_host.policy.actions import ActionRules, Disarm
from mamplus_host.verdicts import Outcome, Verdict

OURS, PEER = "mamplus", "bare kill"
PER_S = 1000
READ_EVERY_S = 0.002  # how often the ring is drained while events flow
_NS = 1_000_000_000
Take = Callable[[list[Exec]], None]


_WAITING = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(int(sys.argv[1])):
    print(os.posix_spawn("/usr/bin/sleep", ["sleep", "1000"], {}))
sys.stdout.flush()
os.close(1)
signal.pause()
"""


@contextmanager
def victims(count: int, cgroup: Path) -> Iterator[list[int]]:
    """Yield the numbers of `count` processes that wait in `cgroup`; whose parent reaps them."""

    def enter() -> None:
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))

    command = [sys.executable, "-S", "-c", _WAITING, str(count)]
    parent = subprocess.Popen(
        command, stdout=subprocess.PIPE, preexec_fn=enter
    )  # children inherit the pipe: read lines
    assert parent.stdout is not None
    try:
        yield [int(parent.stdout.readline()) for _ in range(count)]
    finally:
        (cgroup / "cgroup.kill").write_text("1")
        parent.stdout.close()
        parent.wait()


def event(tgid: int) -> Exec:
    boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    head = Head(boot_ns=boot_ns, cgroup_id=1, generation=1, tgid=tgid, ppid=1, uid=0, slot=0, flags=0,
                verdict=Verdict.BLOCK, comm="victim")  # fmt: skip
    file = File(dev=1, ino=tgid, size=1, ctime_s=1, ctime_ns=1)
    return Exec(head=head, file=file, sha256=f"{tgid:064x}", path=f"/opt/victim{tgid}")


def played(tgids: list[int], take: Take, idle: Callable[[float], object] = time.sleep) -> None:
    """Hand the events on as a ring would that is drained every READ_EVERY_S: PER_S come each second.

    `idle` is called after each turn, as the agent's loop does, and when there is nothing to take, for as long.
    """
    begin, done = time.monotonic(), 0
    while done < len(tgids):
        due = min(len(tgids), int((time.monotonic() - begin) * PER_S) + 1)
        if due == done:
            idle(READ_EVERY_S)
            continue
        # each is as old as the time at which it was due says
        late_ns = [int((time.monotonic() - begin - number / PER_S) * _NS) for number in range(done, due)]
        batch = [_aged(event(tgid), old) for tgid, old in zip(tgids[done:due], late_ns, strict=True)]
        take(batch)
        done = due
        idle(0)


def _aged(one: Exec, by_ns: int) -> Exec:
    head = one.head
    return Exec(Head(head.boot_ns - max(0, by_ns), *[getattr(head, name) for name in head.__struct_fields__[1:]]),
                one.file, one.sha256, one.path)  # fmt: skip


class Timed(Executor):
    """Keeps how long each alert took."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.took_ms: list[float] = []

    def answer_all(
        self, batch: Sequence[Planned], then: Callable[[int, list[Outcome]], object], *, waits: bool = False
    ) -> None:
        def timed(number: int, outcomes: list[Outcome]) -> None:
            self.took_ms += [one.took_ns / 1e6 for one in outcomes if one.state == "done"]
            then(number, outcomes)

        super().answer_all(batch, timed, waits=waits)


class Ours:
    """The pipeline with everything behind it."""

    def __init__(self, directory: Path, cgroup: Path) -> None:
        config = Config(scope=Scope(cgroup=str(cgroup)), paths=Paths(state=str(directory), run=str(directory)))
        clock = DeviceClock(directory)
        self._journal = Journal(directory / "journal", max_bytes=config.limits.journal_bytes, clock=clock)
        self._vault = Vault(directory / "vault", limits=Limits(), clock=clock)
        rules = ActionRules(disarm=Disarm(programs=1000, within_s=10))
        self._executor = Timed(
            config, journal=self._journal, vault=self._vault, clock=clock, guarded=GuardSet.of_pids({os.getpid()}),
            disarmed=Disarmed(directory / "rules.json", clock=clock, rules=lambda: rules),
        )  # fmt: skip
        self._pipeline = Pipeline(
            config=config, clock=clock, executor=self._executor,
            outbox=Outbox(directory / "outbox.sqlite", max_bytes=64 << 20),
            alerts=AlertLog(directory / "alerts.sqlite"), guarded=lambda: frozenset({os.getpid()}),
            on_escalation=lambda: None, on_restored=lambda _path: None,
        )  # fmt: skip
        memory.keep_still()

    def take(self, events: list[Exec]) -> None:
        self._pipeline.act(events)

    def idle(self, for_s: float) -> None:
        """As the agent's loop: tell, or wait until something has ended."""
        if self._pipeline.untold:
            self._pipeline.tell_some()
        else:
            select.select([self._executor.ends()], [], [], for_s)
        self._executor.collect()

    def close(self) -> None:
        self._pipeline.close()

    @property
    def took_ms(self) -> list[float]:
        return self._executor.took_ms


class Bare:
    """Only kills, and waits for the end."""

    close = staticmethod(int)

    idle = staticmethod(time.sleep)

    def __init__(self) -> None:
        self.took_ms: list[float] = []

    def take(self, events: list[Exec]) -> None:
        for one in events:
            pidfd = os.pidfd_open(one.head.tgid)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll_ended(pidfd)
            os.close(pidfd)
            self.took_ms.append((time.clock_gettime_ns(time.CLOCK_BOOTTIME) - one.head.boot_ns) / 1e6)


def poll_ended(pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll(2000)


@contextmanager
def subject(name: str, cgroup: Path, state: str | None) -> Iterator[Ours | Bare]:
    if name == PEER:
        yield Bare()
        return
    with tempfile.TemporaryDirectory(dir=state) as directory:
        yield Ours(Path(directory), cgroup)


def measure(name: str, seconds: float, state: str | None) -> list[float]:
    """Return the milliseconds from each alert to its action done."""
    with own_cgroup() as cgroup, subject(name, cgroup, state) as one, victims(int(PER_S * seconds), cgroup) as tgids:
        played(tgids, one.take, one.idle)
        one.close()
        assert len(one.took_ms) == len(tgids), f"{len(one.took_ms)} of {len(tgids)} were acted on"
        return one.took_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0, help="of alerts, a round")
    parser.add_argument("--state", metavar="DIR", help="where journal and outbox lie: their syncs are on the way")
    args = parser.parse_args()
    p99: dict[str, list[float]] = {OURS: [], PEER: []}
    p50: dict[str, list[float]] = {OURS: [], PEER: []}
    for _ in report.progress(range(args.rounds), "rounds", args.rounds):
        for name in (OURS, PEER):
            took = measure(name, args.seconds, args.state)
            p99[name].append(statistics.quantiles(took, n=100)[98])
            p50[name].append(statistics.median(took))
    report.write(
        "act_latency", title=f"confirmed alert to process ended, p99 at {PER_S} a second", unit="ms", values=p99,
        peer=PEER, p50={name: round(statistics.median(values), 2) for name, values in p50.items()}, goal_ms=20,
    )  # fmt: skip


if __name__ == "__main__":
    main()
