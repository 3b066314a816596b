# SPDX-License-Identifier: Apache-2.0
"""mamplus-hash: what the sweep is told of a file, by the responder's own code."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from mamplus_host.kernel import pins

from .conftest import sha256

LARGE_BYTES = (64 << 20) + 12_345  # read in another way than small files


def hashed(*files: Path, threads: int = 1) -> dict[str, list[str]]:
    done = subprocess.run(
        [pins.HASHER, "--threads", str(threads), *files], stdout=subprocess.PIPE, text=True, check=True
    )
    return {line.split(" ", 4)[4]: line.split(" ")[:4] for line in done.stdout.splitlines()}


@pytest.mark.parametrize("size", [0, 1, 131_072, 131_073, LARGE_BYTES])
def test_the_hash_and_the_identity_are_those_of_the_file(tmp_path: Path, size: int) -> None:
    file = tmp_path / "a name with spaces"
    file.write_bytes(os.urandom(min(size, 4096)))
    os.truncate(file, size)

    stat = file.stat()
    ctime_s, ctime_ns = divmod(stat.st_ctime_ns, 10**9)
    assert hashed(file) == {str(file): [sha256(file), str(size), str(ctime_s), str(ctime_ns)]}


def test_several_threads_hash_each_file_once(tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(50)]
    for file in files:
        file.write_bytes(os.urandom(10_000))

    found = hashed(*files, threads=4)

    assert {name: answer[0] for name, answer in found.items()} == {str(file): sha256(file) for file in files}


def test_what_cannot_be_read_is_said_with_its_errno(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it must not wait for a writer

    found = hashed(tmp_path / "missing", tmp_path / "fifo")

    assert found[str(tmp_path / "missing")][:2] == ["-", str(errno.ENOENT)]
    assert found[str(tmp_path / "fifo")][:2] == ["-", str(errno.EINVAL)]
