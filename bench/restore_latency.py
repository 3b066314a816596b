# SPDX-License-Identifier: Apache-2.0
"""How long a protected file is damaged: from the write to the file in place, beside a plain copy of the same size.

A program of its own writes into the file and notes the time before it does; the restorer is woken by the file watch,
as the agent is, looks, writes its intent and puts the file back. It is in place when its name leads to the golden
content again. The copy is shutil.copyfile (sendfile in the kernel), not synced.
"""

import argparse
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import report
from bench.rig import clean_up_when_ended
from mamplus_host.clock import DeviceClock
from mamplus_host.collector.files import FileWatch
from mamplus_host.config import Limits
from mamplus_host.executor.actions.restore import Restore
from mamplus_host.executor.journal import Journal
from mamplus_host.executor.vault.vault import Vault

SIZES = {"4 KiB": 4 << 10, "1 MiB": 1 << 20, "100 MiB": 100 << 20}
GOAL_FACTOR, GOAL_MS = 2, 2
WRITER = """
import os, sys, time
for path in sys.stdin:
    fd = os.open(path.strip(), os.O_WRONLY)
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    os.pwrite(fd, b"damaged", 0)
    print(before, flush=True)
    os.close(fd)
"""


class Restorer:
    """Watch, journal, deed and vault, as the agent joins them."""

    def __init__(self, state: Path, path: Path) -> None:
        limits, self.clock = Limits(), DeviceClock(state)
        self.vault = Vault(state / "vault", limits=limits, clock=self.clock)
        self.journal = Journal(state / "journal", max_bytes=limits.journal_bytes, clock=self.clock)
        self.deed = Restore(self.vault, self.clock)
        self.watch = FileWatch.open(self.vault.protect(path))
        self.number = 0

    def put_back(self) -> int:
        """Wait for the damage, put the file back; return when it was there, CLOCK_BOOTTIME."""
        while True:
            select.select([self.watch], [], [])
            for change in self.watch.read():
                if not self.vault.intact(change.path):
                    self.number += 1
                    facts = self.deed.prepare(f"bench-{self.number}", {"path": change.path})
                    self.journal.append("note", "", {"action": "restore", "facts": facts})
                    self.deed.do(facts)
                    return self.clock.boot_ns()

    def settle(self) -> None:
        self.vault.settle()
        self.vault.tidy()
        self.deed._restores.clear()  # the loop guard is not what is measured
        self.watch.add(self.vault.paths()[0])
        self.watch.read()


def measure(place: Path, size: int, rounds: int, what: str) -> dict[str, list[float]]:
    """Return milliseconds of restorations and copies, alternating."""
    path, copy = place / "protected", place / "copy"
    path.write_bytes(os.urandom(size))
    restorer = Restorer(place / "state", path)
    values: dict[str, list[float]] = {"restored": [], "copy": []}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-S", "-c", WRITER], stdin=pipe, stdout=pipe, text=True) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        for _number in report.progress(range(rounds + 1), what, rounds + 1):
            writer.stdin.write(f"{path}\n")
            writer.stdin.flush()
            there_ns = restorer.put_back()
            values["restored"].append((there_ns - int(writer.stdout.readline())) / 1e6)
            restorer.settle()
            copy.unlink(missing_ok=True)
            begin_ns = time.perf_counter_ns()
            shutil.copyfile(path, copy)
            values["copy"].append((time.perf_counter_ns() - begin_ns) / 1e6)
        writer.stdin.close()
    return {name: series[1:] for name, series in values.items()}  # the first one warms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--place", type=Path, help="a directory on the file system to measure; default: the temporary one"
    )
    arguments = parser.parse_args()
    clean_up_when_ended()
    figures: dict[str, dict[str, float]] = {}
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory(prefix="mamplus-bench-", dir=arguments.place) as directory:
            rounds = arguments.rounds if size < 64 << 20 else max(8, arguments.rounds // 3)
            values = measure(Path(directory), size, rounds, f"restore_latency {name}")
        restored, copy = (statistics.median(values[one]) for one in ("restored", "copy"))
        figures[name] = {
            "restored p50 ms": restored, "copy p50 ms": copy, "goal ms": GOAL_FACTOR * copy + GOAL_MS,
            "restored p90 ms": statistics.quantiles(values["restored"], n=10)[-1], "rounds": float(rounds),
        }  # fmt: skip
    report.table("restore_latency", "from the write to the file in place, beside a plain copy", figures)


if __name__ == "__main__":
    main()
