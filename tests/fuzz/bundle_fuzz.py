# SPDX-License-Identifier: Apache-2.0
"""Attack the way of a bundle, under atheris: `python -m tests.fuzz.bundle_fuzz -runs=N [FOLDER]`."""

import os
import sys

import atheris

with atheris.instrument_imports(include=["mamplus_host.ble", "tuf.api", "tuf.ngclient"]):
    from tests.fuzz.bundles import open_range


def main() -> None:
    """Never returns: libFuzzer ends its process without asking Python, so a parent sweeps up behind it."""
    target, close = open_range()
    pid = os.fork()
    if pid == 0:
        atheris.Setup(sys.argv, target.attack)
        atheris.Fuzz()
    status = os.waitpid(pid, 0)[1]
    close()
    sys.exit(os.waitstatus_to_exitcode(status) and 1)


if __name__ == "__main__":
    main()
