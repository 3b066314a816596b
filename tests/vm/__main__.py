# SPDX-License-Identifier: Apache-2.0
"""Run a command, or tests, on stock kernels.

    python -m tests.vm --kernel 6.1 -- COMMAND...      exit code and output are the command's; default: the newest
    python -m tests.vm --kernel 6.1 --tests -- ARG...  what pytest selects by ARGs; default: every series, the selection

Exit 1 when a test fails, or when a machine does not run to its end.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.vm import kernels, machine, selection

TIMEOUT_S = 300.0


def run_command(arguments: argparse.Namespace) -> int:
    kernel = kernels.find(arguments.kernel or kernels.SERIES[-1])
    done = machine.run(kernel, arguments.words, timeout_s=arguments.timeout)
    if arguments.console:
        sys.stderr.write(done.console)
    sys.stdout.write(done.output)
    return done.exit_code


def run_tests(arguments: argparse.Namespace) -> int:
    told = [_run_on(series, arguments) for series in ([arguments.kernel] if arguments.kernel else kernels.SERIES)]
    return 0 if all(told) else 1


def _run_on(series: str, arguments: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory(prefix="mamplus-vm-") as share:
        ran = selection.run(kernels.find(series), Path(share), *arguments.words, timeout_s=arguments.timeout)
    for name, said in ran.outcomes.items():
        print(f"{series} {said.outcome}: {name}" + (f"\n{said.text}" if said.outcome != "passed" else ""))
    if arguments.console or ran.trouble or not ran.outcomes:
        print(ran.output + ran.trouble)
    print(f"{series}:", ", ".join(f"{count} {outcome}" for outcome, count in selection.summary(ran).items()))
    faults = [selection.fault(name, said) for name, said in ran.outcomes.items()]
    return bool(ran.outcomes) and not ran.trouble and not any(faults)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.vm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernel", choices=kernels.SERIES)
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT_S, metavar="S", help="seconds until a machine is ended"
    )
    parser.add_argument("--console", action="store_true", help="show also what the kernel printed, or pytest")
    parser.add_argument("--tests", action="store_true", help="the words are arguments of pytest; none: the selection")
    parser.add_argument("words", nargs="*")
    arguments = parser.parse_args()
    if not arguments.tests and not arguments.words:
        parser.error("want a command, or --tests")
    try:
        return run_tests(arguments) if arguments.tests else run_command(arguments)
    except (kernels.NoKernel, machine.MachineFailed) as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
