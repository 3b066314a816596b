# SPDX-License-Identifier: Apache-2.0
"""Opens that wait for the hash of one file: kernel_probes/native/responder_watch_hash.c with a digest of our own."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
HARNESS = Path(__file__).with_name("watch_waits.c")


def test_who_joined_a_hash_is_answered_by_it_although_the_first_one_was_late(tmp_path: Path) -> None:
    program = tmp_path / "harness"
    for name in ("file", "other"):
        (tmp_path / name).write_text(name)
    include = [f"-I{ROOT / 'kernel_probes' / part}" for part in ("include", "native")]
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-pthread", *include, "-o", program, HARNESS], check=True)

    done = subprocess.run([program, tmp_path / "file", tmp_path / "other"], capture_output=True, text=True, check=True)

    assert done.stdout == "early 1 hashed 1 late 1\n"  # the first had its answer at its deadline; the second waits on
