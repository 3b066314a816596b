# SPDX-License-Identifier: Apache-2.0
"""What 1,000 changes cost when the list is long: bytes on the wire, and time until the kernel asks them.

A real repository, keys and all, served over TLS on loopback; a real device with its helper
process; our tables in the kernel. Each round the same changes reach one device as a delta, and as the whole
list another that has nothing yet.
"""

import argparse
import mmap
import os
import random
import ssl
import threading
import time
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench import report
from bench.rig import rig
from mamplus_enterprise.ble import repository
from mamplus_enterprise.ble.keys import load_signers
from mamplus_enterprise.ble.shelf import Delta, LayerChange
from mamplus_enterprise.found import Wishes, found
from mamplus_enterprise.home import Home
from mamplus_enterprise.tls import fingerprint, server_context
from mamplus_host.ble import native
from mamplus_host.ble.compile import compile_next
from mamplus_host.ble.encode import About, Columns, assemble
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import GROUP, ROOT_AT, Generation, Section
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.stack import Stack
from mamplus_host.ble.store import BleStore
from mamplus_host.ble.update import update
from mamplus_host.config import Config, Paths
from mamplus_host.enterprise import Enterprise, enterprise_path
from mamplus_host.kernel.objects import Kernel
from mamplus_host.kernel.tables import Tables
from mamplus_host.verdicts import Verdict

DELTA, WHOLE = "delta", "whole list"
STEP_BITS = 64


class Taken(NamedTuple):
    """What one way of bringing the changes cost."""

    wire_bytes: float
    update_ms: float  # fetched, verified and installed; the helper's start included
    enforced_ms: float  # from verified to asked by the kernel


class Company:
    """An enterprise whose list is made here, without a database."""

    def __init__(self, directory: Path, count: int) -> None:
        self.home = found(directory, Wishes(name="bench", dev=True))
        self._signers = load_signers(self.home, None)
        self._list, self._number, self._id = directory / "2.mble", 2, count
        self._keys = write_hashes(self._list, count)
        self.root = (self.home.metadata / "1.root.json").read_bytes()
        self.compile_ms = 0.0
        self.delta_bytes = 0
        self._add(self._list, None)

    def change(self, changes: int) -> None:
        """Publish a generation with `changes`: 7 of 10 are new, the others withdrawn."""
        new = [self._new() for _ in range(changes * 7 // 10)]
        gone = [(Kind.SHA256, self._keys.pop().hex()) for _ in range(changes - len(new))]
        path = self.home.dir / f"{self._number + 1}.mble"
        begin = time.monotonic()
        made = compile_next(self._list, new, gone, path, number=self._number + 1, created_s=int(time.time()))
        self.compile_ms = (time.monotonic() - begin) * 1000
        assert made.delta_bytes is not None
        self._list.unlink()
        self._list, self._number = path, self._number + 1
        packed = zlib.compress(made.delta_bytes, 9)
        self.delta_bytes = len(packed)
        self._add(path, Delta(since=self._number - 1, changes=made.changes, content=packed))

    def _new(self) -> Entry:
        self._id += 1
        return Entry(id=self._id, kind=Kind.SHA256, value=os.urandom(32).hex(), verdict=Verdict.BLOCK, source="bench")

    def _add(self, path: Path, delta: Delta | None) -> None:
        with Generation.open(path) as made:
            entries, root = made.count, made.root
        offered = self.home.dir / "offered"
        os.link(path, offered)  # the repository moves what it is given
        change = LayerChange(
            layer=Layer.ENTERPRISE, number=self._number, entries=entries, root=root, full=offered, delta=delta
        )
        repository.add(self.home, self._signers, [change])


def write_hashes(path: Path, count: int) -> list[bytes]:
    """Write a list of `count` random hashes; return some of them."""
    step, keys = (1 << STEP_BITS) // count, bytearray(os.urandom(32 * count))
    for index in range(count):  # they must rise
        keys[32 * index : 32 * index + 8] = (index * step).to_bytes(8, "big")
    zeros = bytes(4 * count)
    columns = Columns(Section.SHA256, keys, zeros, array("Q", range(1, count + 1)), zeros)
    groups = GROUP.pack(Verdict.BLOCK, 4, 100, 0, 0, 0, 0)
    with path.open("wb") as file:
        file.writelines(assemble(About(2, int(time.time()), 0), [columns], groups, bytes(2)))
    with path.open("r+b") as written, mmap.mmap(written.fileno(), 0) as data:
        data[ROOT_AT : ROOT_AT + native.ROOT_SIZE] = native.state_root(data)
    return [bytes(keys[32 * index : 32 * index + 32]) for index in random.sample(range(count), min(count, 100_000))]


class Device:
    """A device's state directory, and the tables of this machine's kernel."""

    def __init__(self, state: Path, company: Company, url: str, tables: Tables) -> None:
        (state / "trust").mkdir(parents=True)
        (state / "identity").mkdir()
        (state / "trust" / "root.json").write_bytes(company.root)
        home = company.home
        member = Enterprise(
            url, fingerprint(home.certificate), home.settings.enterprise_id, "d" * 64, 0, ("127.0.0.1",)
        )
        enterprise_path(state).write_bytes(msgspec.json.encode(member))
        self._state, self._tables, self.stack = state, tables, Stack([])
        self._store = BleStore(state)

    def take(self) -> Taken:
        """Update, and enforce what came."""
        begin = time.monotonic_ns()
        result = update(self._state)
        updated = time.monotonic_ns()
        before, stack = self.stack, self._store.current()
        assert stack is not None
        parts = stack.changed_since(before) if before.layers else None
        swap = time.monotonic_ns()
        if parts is None:
            made = self._tables.load(stack, time.time())
        else:
            made = self._tables.patch(stack, parts, time.time())
            assert made.is_patch, "the tables were loaded anew, want a patch"
        before.close()
        self.stack = stack
        asked = swap + made.took_ns  # what comes after is the old side's end
        return Taken(result.bytes, (updated - begin) / 1e6, (asked - result.verified_ns) / 1e6)


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # one connection for all files, as `serve` has it

    def log_message(self, *_arguments: Any) -> None:
        pass


@contextmanager
def served(home: Home) -> Iterator[str]:
    """Serve the repository as the enterprise does; yield the address."""
    link = home.dir / "served"
    link.mkdir()
    (link / "repo").symlink_to(home.dir / "repository")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(link)))
    context: ssl.SSLContext = server_context(home, None)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def measure(directory: Path, tables: Tables, count: int, changes: int, rounds: int) -> None:
    company = Company(directory / f"company-{count}", count)
    taken: dict[str, list[Taken]] = {DELTA: [], WHOLE: []}
    compiled, sizes = list[float](), list[float]()
    with served(company.home) as url:
        device = Device(directory / f"device-{count}", company, url, tables)
        device.take()
        for number in report.progress(range(rounds), f"delta {count}", rounds):
            company.change(changes)
            compiled.append(company.compile_ms)
            sizes.append(company.delta_bytes)
            taken[DELTA].append(device.take())
            fresh = Device(directory / f"fresh-{count}-{number}", company, url, tables)
            taken[WHOLE].append(fresh.take())
            fresh.stack.close()
            _remove(directory / f"fresh-{count}-{number}")
            tables.load(device.stack, time.time())
    for metric, title, unit, factor in (
        ("wire_bytes", "on the wire, TLS and metadata included", "KB", 1e-3),
        ("update_ms", "fetched, verified, installed", "ms", 1.0),
        ("enforced_ms", "from verified to enforced", "ms", 1.0),
    ):
        values = {name: [getattr(one, metric) * factor for one in found] for name, found in taken.items()}
        report.write(
            f"delta_{metric}_{count}", title=f"{changes} changes to {count} hashes: {title}", unit=unit,
            values=values, peer=WHOLE, delta_target_bytes=max(sizes), compile_next_ms=sorted(compiled)[rounds // 2],
        )  # fmt: skip


def _remove(directory: Path) -> None:
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    directory.rmdir()


@contextmanager
def attached() -> Iterator[tuple[Path, Tables]]:
    """Yield a directory, and tables of our own."""
    with rig() as made:
        paths = Paths(str(made.directory / "state"), str(made.directory / "run"), made.bpffs)
        kernel = Kernel.attach(config := Config(paths=paths), made.cgroup)
        try:
            yield made.directory, kernel.tables
        finally:
            kernel.close()
            Kernel.detach(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    for count in arguments.sizes:
        with attached() as (directory, tables):
            measure(directory, tables, count, arguments.changes, arguments.rounds)


if __name__ == "__main__":
    main()
