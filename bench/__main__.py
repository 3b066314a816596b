# SPDX-License-Identifier: Apache-2.0
"""Runs every benchmark, one after the other: `make bench`."""

import subprocess
import sys

from bench.rig import clean_up_when_ended

BENCHMARKS = (
    "exec_cost", "open_cost", "hash_speed", "connect_cost", "drain", "idle", "tables", "delta", "import_speed",
    "path_patterns", "restore_latency", "ransom", "act_latency",
)  # fmt: skip


def main() -> int:
    clean_up_when_ended()
    failed = 0
    for number, name in enumerate(BENCHMARKS, 1):
        print(f"[{number}/{len(BENCHMARKS)}] {name}", flush=True)
        # A process each, so that none measures what another has left in memory.
        with subprocess.Popen([sys.executable, "-m", f"bench.{name}"]) as process:
            try:
                failed |= process.wait()
            except BaseException:
                process.terminate()
                raise
    return int(failed != 0)


if __name__ == "__main__":
    sys.exit(main())
