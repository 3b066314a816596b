# SPDX-License-Identifier: Apache-2.0
"""python -m tests.vm [--kernel 6.1|6.12] [--timeout S] -- COMMAND...: run a command on a stock kernel."""

import argparse
import sys

from tests.vm import kernels, machine

TIMEOUT_S = 300.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("--kernel", default=kernels.SERIES[-1], choices=kernels.SERIES)
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="S", help="seconds until it is ended")
    parser.add_argument("--console", action="store_true", help="show what the kernel printed, too")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    try:
        done = machine.run(kernels.find(arguments.kernel), arguments.command, timeout_s=arguments.timeout)
    except (kernels.NoKernel, machine.MachineFailed) as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1
    if arguments.console:
        sys.stderr.write(done.console)
    sys.stdout.write(done.output)
    return done.exit_code


if __name__ == "__main__":
    sys.exit(main())
