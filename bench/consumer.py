# SPDX-License-Identifier: Apache-2.0
"""Attaches the probes to one cgroup and consumes their events as the agent does, until stdin is closed.

Run by the cost benchmarks as a child process: what is measured never shares an interpreter
with what consumes. Prints "ready", and at the end the kernel's counters as one JSON object.
"""

import argparse
import json
import select
import sys
from pathlib import Path

from bench.rig import clean_up_when_ended
from mamplus_host.collector.decode import decode_run
from mamplus_host.config import Agent, Config, Paths
from mamplus_host.kernel.objects import Kernel


def consume(kernel: Kernel) -> int:
    """Decode every event until stdin is closed; return how many there were."""
    poll, decoded = select.poll(), 0
    poll.register(sys.stdin, select.POLLIN | select.POLLHUP)
    poll.register(kernel.ring.fileno(), select.POLLIN)
    while True:
        decoded += sum(len(decode_run(*run)) for run in kernel.ring.drain())
        wait_s = kernel.ring.arm()
        ready = poll.poll(None if wait_s is None else wait_s * 1000)
        if any(descriptor == sys.stdin.fileno() for descriptor, _ in ready):
            return decoded + sum(len(decode_run(*run)) for batch in iter(kernel.ring.drain, []) for run in batch)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cgroup", type=Path, required=True)
    parser.add_argument("--directory", type=Path, required=True, help="for state and run")
    parser.add_argument("--bpffs", required=True)
    arguments = parser.parse_args()
    paths = Paths(str(arguments.directory / "state"), str(arguments.directory / "run"), arguments.bpffs)
    config = Config(paths=paths, agent=Agent(mode="enforce"))
    clean_up_when_ended()
    try:
        kernel = Kernel.attach(config, arguments.cgroup)
        print("ready", flush=True)
        decoded = consume(kernel)
        print(json.dumps({"decoded": decoded, **kernel.tables.counters()}))
        kernel.close()
    finally:
        Kernel.detach(config)


if __name__ == "__main__":
    main()
