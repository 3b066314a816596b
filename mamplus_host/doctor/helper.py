# SPDX-License-Identifier: Apache-2.0
"""The process in which controls are tried; what it made is gone when it ends, also when it is told to.

    python -m mamplus_host.doctor.helper [--kernel] [--agent] [--nice]    < configuration as JSON, or nothing

Prints one trial a line, as JSON. --kernel: what this kernel allows; --agent: what the agent of that configuration
enforces.
"""

import argparse
import os
import resource
import signal
import sys
from collections.abc import Iterator

import msgspec

from mamplus_host.config import Config
from mamplus_host.doctor.place import make_private
from mamplus_host.doctor.trial import Trial

MAX_CPU_S = 300  # of this process and, each for itself, of those it starts
_NICE = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="mamplus_host.doctor.helper", description="Try the controls of this machine.")
    parser.add_argument("--kernel", action="store_true", help="what this kernel allows, with probes of the trials' own")
    parser.add_argument("--agent", action="store_true", help="what the agent of the configuration on stdin enforces")
    parser.add_argument("--nice", action="store_true", help="give way to everything else")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    if options.nice:
        os.nice(_NICE)
        resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    said = sys.stdin.buffer.read()
    config = msgspec.json.decode(said, type=Config) if said.strip() else None
    make_private()
    for trial in _trials(config, options):
        sys.stdout.buffer.write(msgspec.json.encode(trial) + b"\n")
        sys.stdout.buffer.flush()
    return 0


def _trials(config: Config | None, options: argparse.Namespace) -> Iterator[Trial]:
    from mamplus_host.doctor import running  # the native extensions
    from mamplus_host.doctor.trials import agent_trials, kernel_trials
    from mamplus_host.kernel import guard

    may_ask = config is None or options.nice or not guard.stands(config)  # --nice: a child of the agent
    if options.kernel:
        yield from kernel_trials(config if may_ask else None)
    if options.agent and config is not None:
        yield from agent_trials(config) if may_ask else running.all_as(running.kept_away)


def _end(_number: int, _frame: object) -> None:
    raise SystemExit(1)  # what the trials opened is closed on the way


if __name__ == "__main__":
    sys.exit(main())
