# SPDX-License-Identifier: Apache-2.0
"""How fast files are hashed off the path: mamplus-hash, which is the responder's code, beside `openssl speed sha256`.

Both use all processors. Ours opens, reads and closes files, which lie in the page cache; openssl hashes one block
that stays in the processor's cache, and reads nothing: it is what no reader of files reaches.
"""

import argparse
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from bench import report
from mamplus_host.kernel import pins

FILE_BYTES, FILES = 64 << 20, 4  # for each processor
BLOCK_BYTES = 128 << 10  # as digest.c reads
MB = 1e6


def ours(files: list[Path], threads: int) -> float:
    """Return MB/s of all threads together."""
    begin_s = time.perf_counter()
    command = [str(pins.HASHER), "--threads", str(threads), *map(str, files)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    took_s = time.perf_counter() - begin_s
    if len(told.splitlines()) != len(files) or told.startswith("-") or "\n-" in told:
        raise SystemExit(f"not every file was hashed: {told!r}")
    return len(files) * FILE_BYTES / took_s / MB


def openssl(threads: int, seconds: int) -> float:
    """Return MB/s of all processes together."""
    command = ["openssl", "speed", "-mr", "-seconds", str(seconds), "-multi", str(threads)]
    command += ["-bytes", str(BLOCK_BYTES), "-evp", "sha256"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^\+F:\d+:sha256:([\d.]+)$", told, re.MULTILINE)
    if len(found) != 1:
        raise SystemExit(f"openssl speed said {told!r}")
    return float(found[0]) / MB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=1, help="of openssl, in each round")
    arguments = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    values: dict[str, list[float]] = {"mamplus-hash": [], "openssl speed": []}
    with tempfile.TemporaryDirectory(prefix="mamplus-bench-") as directory:
        files = [Path(directory, str(number)) for number in range(FILES * threads)]
        for file in files:
            file.write_bytes(os.urandom(FILE_BYTES))
        ours(files, threads)  # warm: into the page cache
        for number in report.progress(range(arguments.rounds), "hash_speed", arguments.rounds):
            for name in sorted(values, reverse=bool(number % 2)):
                one = ours(files, threads) if name == "mamplus-hash" else openssl(threads, arguments.seconds)
                values[name].append(one)
    report.write(
        "hash_speed",
        title=f"SHA-256 on {threads} processors",
        unit="MB/s",
        values=values,
        peer="openssl speed",
        file_bytes=FILE_BYTES,
        files=len(files),
    )


if __name__ == "__main__":
    main()
