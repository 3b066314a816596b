# SPDX-License-Identifier: Apache-2.0
"""From a list's file to the kernel that enforces it, in a process of its own: what is timed is all of it.

Prints when the kernel asked the new tables (nanoseconds of the monotonic clock), how many entries
there are, and the largest resident size of the process in bytes.
"""

import sys
import time
from pathlib import Path

from mamplus_host.ble.format import Generation
from mamplus_host.kernel.tables import Tables


def main() -> None:
    path, directory, is_checked = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "check"
    with Generation.open(path) as generation:
        if is_checked:
            generation.check()
        begin_ns = time.monotonic_ns()
        report = Tables(directory).load(generation, time.time())
    print(begin_ns + report.took_ns, report.entries, _peak_bytes())


def _peak_bytes() -> int:
    """Return VmHWM; ru_maxrss would be that of the process before exec, where it was larger."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
