# SPDX-License-Identifier: Apache-2.0
"""Attaches the probes to one cgroup and consumes their events as the agent does, until stdin is closed.

Run by the cost benchmarks as a child process: what is measured never shares an interpreter
with what consumes. Prints "ready", and at the end the kernel's counters as one JSON object.
"""

import argparse
import json
import os
import select
import sys
import time
from pathlib import Path

from bench.rig import clean_up_when_ended
from mamplus_host.ble.format import Generation
from mamplus_host.collector.decode import decode_batch
from mamplus_host.collector.past import Past
from mamplus_host.config import Agent, Config, ExecPolicy, Paths
from mamplus_host.errors import EventMalformed
from mamplus_host.kernel import responder
from mamplus_host.kernel.objects import Kernel


def _fail(error: EventMalformed) -> None:
    raise error


def consume(kernel: Kernel, past: Past) -> int:
    """Note every record until stdin is closed, and decode what is not quiet, as the agent does; return their number."""
    poll, decoded = select.poll(), 0
    kernel.ring.feed(past)
    poll.register(sys.stdin, select.POLLIN | select.POLLHUP)
    poll.register(kernel.ring.fileno(), select.POLLIN)
    while True:
        if batch := kernel.ring.drain():
            decoded += len(decode_batch(*batch, _fail))
        wait_s = kernel.ring.arm()
        ready = poll.poll(None if wait_s is None else wait_s * 1000)
        if any(descriptor == sys.stdin.fileno() for descriptor, _ in ready):
            decoded += sum(len(decode_batch(*batch, _fail)) for batch in iter(kernel.ring.drain, None))
            return decoded + past.unseen


def prepare(kernel: Kernel, config: Config, arguments: argparse.Namespace) -> None:
    """Load a list and have file systems marked, where the options say so."""
    if arguments.list:
        with Generation.open(arguments.list) as generation:
            kernel.tables.load(generation, time.time())
    if arguments.fanotify:
        pidfd = os.pidfd_open(responder.ensure_running(config, arguments.cgroup).pid)
        if wrong := kernel.watching.ask(config, pidfd):
            raise SystemExit(f"not marked: {wrong}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cgroup", type=Path, required=True)
    parser.add_argument("--directory", type=Path, required=True, help="for state and run")
    parser.add_argument("--bpffs", required=True)
    parser.add_argument("--list", type=Path, help="of a generation, to be loaded")
    parser.add_argument("--fanotify", default="", help="a directory, whose file system is asked about")
    arguments = parser.parse_args()
    marked = ExecPolicy(fanotify=(arguments.fanotify,) if arguments.fanotify else ())
    paths = Paths(str(arguments.directory / "state"), str(arguments.directory / "run"), arguments.bpffs)
    config = Config(paths=paths, agent=Agent(mode="enforce"), exec=marked)
    clean_up_when_ended()
    try:
        kernel = Kernel.attach(config, arguments.cgroup)
        kernel.stand_file_hooks()  # as the agent does
        prepare(kernel, config, arguments)
        print("ready", flush=True)
        limits = config.limits
        consumed = consume(kernel, Past(tasks=limits.lineage_tasks, events=limits.recent_events))
        counted = kernel.tables.counters() | {"fanotify": kernel.watching.counters()}
        print(json.dumps({"consumed": consumed, **counted}))
        kernel.close()
    finally:
        Kernel.detach(config)


if __name__ == "__main__":
    main()
