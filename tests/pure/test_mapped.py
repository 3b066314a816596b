# SPDX-License-Identifier: Apache-2.0
"""A list whose file somebody cuts off while it is open is an error, and not the end of the process."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from mamplus_host.analyzer.verify import verify_text
from mamplus_host.ble import native
from mamplus_host.ble.encode import encode, place_of
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import Generation, Section
from mamplus_host.ble.globs import Globs
from mamplus_host.ble.stack import Stack
from mamplus_host.errors import BleInvalid
from mamplus_host.kernel.budget import BYTES_AN_ENTRY, Rules, rules, whole
from mamplus_host.verdicts import Verdict

COUNT = 20_000  # addresses, of which most lie beyond the first pages
LAST = f"10.0.{COUNT - 1 >> 8}.{COUNT - 1 & 255}"


@cache
def data() -> bytes:
    entries = [
        Entry(id=1 + n, kind=Kind.IP, value=f"10.0.{n >> 8}.{n & 255}", verdict=Verdict.BLOCK) for n in range(COUNT)
    ]
    entries += [Entry(id=COUNT + 1, kind=Kind.PATH, value="/opt/*/bad", verdict=Verdict.BLOCK)]
    return encode(entries, generation=7, created_s=1)


def a_list(path: Path) -> Path:
    path.write_bytes(data())
    return path


def columns_read(made: Generation) -> None:
    with whole(made, made.sections[Section.IP4], Rules.of(made)):
        pass


ASK: dict[str, Callable[[Generation], object]] = {
    "find": lambda made: made.find(*place_of(Kind.IP, LAST)),
    "key": lambda made: made.key(Section.IP4, COUNT - 1),
    "entry": lambda made: made.entry(COUNT - 1),
    "value": lambda made: made.value(COUNT - 1),
    "verdict": lambda made: made.verdict_and_end(COUNT - 1),
    "id": lambda made: Stack.of(made).entry_by_id(COUNT),
    "check": lambda made: verify_text(made, Kind.IP, LAST, now_s=1),
    "root": lambda made: made.check(),
    "verdicts": lambda made: Stack.of(made).verdicts(made, Section.IP4, 1),
    "ended": lambda made: Stack.of(made).count_ended([Section.IP4], 1),
    "delta": lambda made: native.after([made.buffer], made.root, made.total, made.buffer),
    "patterns": lambda made: Globs([made]),
    "budget": lambda made: rules([made], frozenset({Section.IP4}), 1, 10 * BYTES_AN_ENTRY),
    "tables": columns_read,
}


CUTS = {"nothing": 0, "one page": 4096, "all but a byte": -1}


@pytest.mark.parametrize(
    ("how", "cut"), [(how, cut) for how in ASK for cut in CUTS if (how, CUTS[cut]) != ("find", -1)]
)
def test_what_is_asked_of_a_list_that_was_cut_off_is_an_error(tmp_path: Path, how: str, cut: str) -> None:
    path = a_list(tmp_path / "list")
    with Generation.open(path) as made, Generation.open(a_list(tmp_path / "other")) as other:
        size = path.stat().st_size
        os.truncate(path, CUTS[cut] if CUTS[cut] >= 0 else size + CUTS[cut])

        with pytest.raises(BleInvalid, match=f"the list's file has {path.stat().st_size} bytes, want {size}"):
            ASK[how](made)
        assert ASK["check"](other) is not None


def test_a_list_that_was_cut_off_stays_one_when_its_file_has_its_length_again(tmp_path: Path) -> None:
    """Zeros stand where its entries were: an address that was listed must not be told to be free."""
    path = a_list(tmp_path / "list")
    with Generation.open(path) as made:
        size = path.stat().st_size
        os.truncate(path, 4096)
        with pytest.raises(BleInvalid):
            made.find(*place_of(Kind.IP, LAST))
        os.truncate(path, size)

        with pytest.raises(BleInvalid):
            verify_text(made, Kind.IP, LAST, now_s=1)


CUT_BY_ITSELF = """
import mmap, os, sys
from pathlib import Path
from mamplus_host.ble.format import Generation

path = Path(sys.argv[1])
for _ in range(10):
    Generation.open(path).close()
with path.open("r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
    os.truncate(path, 0)
    print(memory[5000])
"""


def test_a_bus_error_of_what_is_no_open_list_ends_the_process_as_ever(tmp_path: Path) -> None:
    path = a_list(tmp_path / "list")

    done = subprocess.run([sys.executable, "-c", CUT_BY_ITSELF, path], capture_output=True, check=False)

    assert (done.returncode, done.stdout) == (-signal.SIGBUS, b"")
