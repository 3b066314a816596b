# SPDX-License-Identifier: Apache-2.0
"""Observation for kernels without BTF that are too old to enforce: bcc in a child process, records on its stdout.

Journey: kernel -> [bcc_shell] -> pipe -> decode.

bcc holds 184 MB, so it never lives in the agent: `python -m mamplus_host.kernel.bcc_shell --cgroup DIR`
loads `observe.bcc.c`, which refuses nothing, and writes frames: a 4-byte length, then
that many bytes. READY_BYTES: everything is attached. LOST_BYTES: the number of records lost so far, 8 bytes.
Anything longer is one record of `mamplus_events.h`. It ends when its stdin or stdout is closed or at SIGTERM,
and the kernel then detaches everything: what is attached hangs on descriptors of this process alone.

`read_frames` is the other end. This module decodes no record and knows no BLE.
"""

import argparse
import ctypes
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mamplus_host.errors import EventMalformed, KernelRefused, MamplusError, NotPossible
from mamplus_host.kernel import pins
from mamplus_host.kernel.headers import kernel_headers

FRAME = struct.Struct("<I")
BOOT_NS = struct.Struct("<Q")  # first field of every record
LOST = struct.Struct("<Q")
READY_BYTES, LOST_BYTES = 0, LOST.size
RECORD_BYTES_MIN, RECORD_BYTES_MAX = 72, 4096  # struct mamplus_head; more than any record
BUFFER_PAGES = 64  # of the perf buffer, for each CPU: 256 KiB
POLL_MS = 500  # how late the end of the other side may be noticed

_CLONE_NEWNS, _MS_REC_PRIVATE = 0x20000, 0x4000 | 0x40000
_CONNECT_HOOKS = {"on_connect4": 10, "on_connect6": 11}  # enum bpf_attach_type


def read_frames(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the body of each frame; an empty one says ready. EventMalformed when the stream makes no sense."""
    while header := stream.read(FRAME.size):
        length = FRAME.unpack(header)[0] if len(header) == FRAME.size else -1
        if length not in (READY_BYTES, LOST_BYTES) and not RECORD_BYTES_MIN <= length <= RECORD_BYTES_MAX:
            raise EventMalformed(f"the bcc shell announced a frame of {length} bytes")
        body = stream.read(length)
        if len(body) != length:
            raise EventMalformed(f"the bcc shell ended inside a frame: {len(body)} of {length} bytes")
        yield body


class FrameWriter:
    """Gathers frames and writes them in one go; counts what the perf buffer lost."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._pending = descriptor, bytearray()
        self._lost = self._told = 0

    def record(self, data: bytes) -> None:
        """Add a record; its CLOCK_MONOTONIC time becomes CLOCK_BOOTTIME."""
        suspended_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
        boot_ns = BOOT_NS.unpack_from(data)[0] + suspended_ns
        self._pending += FRAME.pack(len(data)) + BOOT_NS.pack(boot_ns) + data[BOOT_NS.size :]

    def lost(self, count: int) -> None:
        self._lost += count

    def ready(self) -> None:
        self._pending += FRAME.pack(READY_BYTES)

    def flush(self) -> None:
        """Write what was gathered; waits while the reader is slow, which the perf buffer then counts as lost."""
        if self._lost != self._told:
            self._pending += FRAME.pack(LOST_BYTES) + LOST.pack(self._lost)
            self._told = self._lost
        while self._pending:
            del self._pending[: os.write(self._descriptor, self._pending)]


class ScopeProbes:
    """The probes, attached for one cgroup and what is below it."""

    def __init__(self, cgroup: Path, connects: str) -> None:
        bcc = import_bcc()
        source = (pins.BCC_SOURCES / "observe.bcc.c").read_text()
        with kernel_headers(), as_kernel_refused():
            self._bpf = bcc.BPF(text=source, cflags=[f"-I{pins.BCC_SOURCES}"])
        self._links: list[int] = []
        self._cgroup = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._bpf["scope"][0] = self._cgroup
        self.connects = self._attach_connects(bcc, connects)

    def _attach_connects(self, bcc: Any, wanted: str) -> str:
        """Return which hook tells of connects; the cgroup hooks see more, so `auto` asks for them first."""
        if wanted != "tracepoint":
            try:
                self._link_hooks(bcc)
                return "cgroup"
            except KernelRefused:
                if wanted == "cgroup":
                    raise
        self._unlink()
        with as_kernel_refused():
            self._bpf.attach_tracepoint(tp=b"sock:inet_sock_set_state", fn_name=b"on_sock_state")
        return "tracepoint"

    def _link_hooks(self, bcc: Any) -> None:
        # A link goes with our descriptor; what BPF.attach_func attaches would outlive a SIGKILL.
        libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
        for name, attach_type in _CONNECT_HOOKS.items():
            with as_kernel_refused():
                program = self._bpf.load_func(name, bcc.BPF.CGROUP_SOCK_ADDR, None, attach_type)
            link = libbpf.bpf_link_create(program.fd, self._cgroup, attach_type, None)
            if link < 0:
                raise KernelRefused(f"cannot attach {name} to the cgroup: {os.strerror(-link)}", errno=-link)
            self._links.append(link)

    def _unlink(self) -> None:
        while self._links:
            os.close(self._links.pop())

    def into(self, writer: FrameWriter) -> None:
        """Send every record to `writer` from now on."""
        self._bpf["events"].open_perf_buffer(
            lambda _cpu, data, size: writer.record(ctypes.string_at(data, _record_bytes(data, size))),
            page_cnt=BUFFER_PAGES,
            lost_cb=writer.lost,
        )

    def poll(self) -> None:
        self._bpf.perf_buffer_poll(POLL_MS)


def _record_bytes(data: int, size: int) -> int:
    # The perf buffer pads to 8 bytes; the record's own head.size is exact.
    return min(size, ctypes.c_uint.from_address(data + 24).value)


def import_bcc() -> Any:
    """Return bcc's module; NotPossible when it cannot be used here."""
    _have_tracefs()
    try:
        import bcc  # only after tracefs is there: it looks for it when imported
    except ImportError as error:
        raise NotPossible(f"bcc cannot be imported: {error}; install Debian's python3-bpfcc") from None
    return bcc


@contextmanager
def as_kernel_refused() -> Iterator[None]:
    """Make every failure of bcc a KernelRefused."""
    try:
        yield
    except Exception as error:  # bcc raises nothing more exact
        raise KernelRefused(f"bcc: {error}") from None


def _have_tracefs() -> None:
    """Mount tracefs in a mount namespace of our own when the machine has none mounted."""
    if any(Path(root, "events").is_dir() for root in ("/sys/kernel/debug/tracing", "/sys/kernel/tracing")):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if (
        libc.unshare(_CLONE_NEWNS)
        or libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None)
        or libc.mount(b"tracefs", b"/sys/kernel/tracing", b"tracefs", 0, None)
    ):
        seen = os.strerror(ctypes.get_errno())
        raise NotPossible(f"tracefs cannot be mounted: {seen}; run as root on a kernel built with CONFIG_FTRACE")


def observe(cgroup: Path, connects: str) -> None:
    """Write frames to stdout until stdin is closed by the agent, or nobody reads any more."""
    writer = FrameWriter(sys.stdout.fileno())
    probes = ScopeProbes(cgroup, connects)
    probes.into(writer)
    print(f"connects are told by: {probes.connects}", file=sys.stderr)
    writer.ready()
    while not select.select([sys.stdin], [], [], 0)[0]:
        writer.flush()
        probes.poll()
    writer.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description="Observe a cgroup through bcc; frames on stdout.")
    parser.add_argument("--cgroup", type=Path, required=True, metavar="DIR", help="whole path of a cgroup v2 directory")
    parser.add_argument("--connects", choices=("auto", "cgroup", "tracepoint"), default="auto")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        observe(arguments.cgroup, arguments.connects)
    except BrokenPipeError:
        return 0
    except (MamplusError, OSError) as error:
        print(f"bcc_shell: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
