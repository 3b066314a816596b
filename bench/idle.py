# SPDX-License-Identifier: Apache-2.0
"""What an agent costs while nothing happens: memory, processor time and wake-ups, over a minute.

Measures the process `--pid` and the responder, or an agent of its own on an empty cgroup. The
peer is bare Python waiting in the same machine at the same time: what no agent can go below.
"""

import argparse
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import report
from bench.rig import Rig, rig

TICKS = os.sysconf("SC_CLK_TCK")
START_TIMEOUT_S = 60
CONFIG = """
[scope]
cgroup = "{cgroup}"
[paths]
state = "{directory}/state"
run = "{directory}/run"
bpffs = "{bpffs}"
"""


def memory_mb(pid: int) -> dict[str, float]:
    """Return Rss, Pss and what is private to the process, in MB."""
    sizes: dict[str, float] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value, *_ = line.split()
        sizes[key] = int(value) / 1000
    private = sizes["Private_Clean:"] + sizes["Private_Dirty:"]
    return {"rss": sizes["Rss:"], "pss": sizes["Pss:"], "private": private}


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def wake_ups(pid: int) -> int:
    """Return how often its threads went to sleep of their own accord."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        total += int(status.read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return total


def watch(pids: dict[str, int], seconds: int) -> dict[str, dict[str, float]]:
    """Return for each process its memory at the end, and its processor time and wake-ups a second between."""
    before = {name: (processor_s(pid), wake_ups(pid)) for name, pid in pids.items()}
    begin_s = time.monotonic()
    for _ in report.progress(range(seconds), "idle", seconds):
        time.sleep(1)
    took_s = time.monotonic() - begin_s
    return {
        name: memory_mb(pid)
        | {
            "cpu_percent": 100 * (processor_s(pid) - before[name][0]) / took_s,
            "wake_ups_per_s": (wake_ups(pid) - before[name][1]) / took_s,
        }
        for name, pid in pids.items()
    }


@contextmanager
def agent(bench: Rig) -> Iterator[dict[str, int]]:
    """Run an agent on the empty cgroup; its responder is found below its state."""
    config = bench.directory / "agent.toml"
    config.write_text(CONFIG.format(cgroup=bench.cgroup, directory=bench.directory, bpffs=bench.bpffs))
    mamplus = [str(Path(sys.executable).with_name("mamplus")), "--config", str(config)]
    with subprocess.Popen([*mamplus, "run"], stdout=subprocess.PIPE) as process:
        try:
            _wait_until_ready(process)
            (lock,) = (bench.directory / "run").glob("responder-*.lock")
            yield {"agent": process.pid, "responder": int(lock.read_text())}
        finally:
            process.terminate()
            process.wait(timeout=START_TIMEOUT_S)
            subprocess.run([*mamplus, "detach"], check=True, stdout=subprocess.DEVNULL)


def _wait_until_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], START_TIMEOUT_S)[0] or not process.stdout.readline():
        raise SystemExit("the agent did not become ready")


@contextmanager
def bare_python() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        yield process.pid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pid", type=int, help="of a running agent; default: one of our own")
    parser.add_argument("--seconds", type=int, default=60)
    arguments = parser.parse_args()
    with bare_python() as bare:
        if arguments.pid:
            figures = watch({"agent": arguments.pid, "bare python": bare}, arguments.seconds)
        else:
            with rig() as bench, agent(bench) as pids:
                figures = watch(pids | {"bare python": bare}, arguments.seconds)
    report.table("idle", "an agent while nothing happens (MB, % of one CPU, 1/s)", figures, seconds=arguments.seconds)


if __name__ == "__main__":
    main()
