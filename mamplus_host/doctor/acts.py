# SPDX-License-Identifier: Apache-2.0
"""A program that does what a control should refuse; what it meets goes to stdout, one line an act.

    python acts.py '[["open", "/path"], ["connect", "127.0.0.1"]]' [PARENT]

Each line is 0 for "done" or the errno. It imports only what an act needs, and nothing of ours: it stands
for any program. The acts are harmless where nothing refuses them.
"""

import json
import os
import sys
from collections.abc import Callable

PORT = 53
CLONE_NEWNET = 0x40000000
PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17


def open_(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY))


def map_exec(path: str) -> None:
    """What the dynamic loader does with a library."""
    import mmap

    descriptor = os.open(path, os.O_RDONLY)
    try:
        mmap.mmap(descriptor, 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
    finally:
        os.close(descriptor)


def load(path: str) -> None:
    """dlopen(3), which says no more than that it failed."""
    import ctypes

    try:
        ctypes.CDLL(path)
    except OSError:
        raise PermissionError(1, "dlopen failed") from None


def map_write(path: str) -> None:
    import mmap

    descriptor = os.open(path, os.O_RDWR)
    try:
        with mmap.mmap(descriptor, 1) as view:
            view[0:1] = b"x"
    finally:
        os.close(descriptor)


def write(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, b"x")
    finally:
        os.close(descriptor)


def truncate(path: str) -> None:
    os.truncate(path, 0)


def chmod(path: str) -> None:
    os.chmod(path, 0o600)


def unlink(path: str) -> None:
    os.unlink(path)


def rename(path: str, to: str) -> None:
    os.rename(path, to)


def rename_over(path: str) -> None:
    beside = path + ".beside"
    with open(beside, "w") as file:
        file.write("other")
    try:
        os.rename(beside, path)
    finally:
        if os.path.exists(beside):
            os.unlink(beside)


def link(path: str) -> None:
    os.link(path, path + ".link")


def connect(host: str) -> None:
    _reach(host, b"")


def send(host: str) -> None:
    _reach(host, b"canary")


def ask_name(host: str, name: str) -> None:
    """Send a DNS query for `name` to `host`."""
    query = bytes.fromhex("123401000001000000000000")
    for label in name.split("."):
        query += bytes([len(label)]) + label.encode()
    _reach(host, query + bytes.fromhex("0000010001"))


def _reach(host: str, payload: bytes) -> None:
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if payload else socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        if payload:
            sock.sendto(payload, (host, PORT))
        else:
            sock.connect((host, PORT))


def alone() -> None:
    """Enter a network namespace where only loopback is: nothing leaves the machine from here."""
    import ctypes
    import fcntl
    import socket
    import struct

    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", b"lo", 0x41))  # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING


def end(pid: str) -> None:
    import signal

    os.kill(int(pid), signal.SIGTERM)


def trace(pid: str) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    if libc.ptrace(PTRACE_SEIZE, int(pid), None, None):
        raise OSError(ctypes.get_errno(), "ptrace")


def memory(pid: str) -> None:
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))


def orphaned() -> None:
    """Wait until who started us, the process of the second argument, is gone: what descends from an agent may more."""
    import time

    while os.getppid() == int(sys.argv[2]):
        time.sleep(0.005)


def stay(seconds: str) -> None:
    import time

    time.sleep(float(seconds))


ACTS: dict[str, Callable[..., None]] = {
    "open": open_, "map-exec": map_exec, "load": load, "map-write": map_write, "write": write, "truncate": truncate,
    "chmod": chmod, "unlink": unlink, "rename": rename, "rename-over": rename_over, "link": link, "connect": connect,
    "send": send, "ask-name": ask_name, "alone": alone, "end": end, "trace": trace, "memory": memory,
    "orphaned": orphaned, "stay": stay,
}  # fmt: skip


def main() -> None:
    for name, *words in json.loads(sys.argv[1]):
        try:
            ACTS[name](*words)
            code = 0
        except OSError as error:
            code = error.errno or 5
        print(code, flush=True)


if __name__ == "__main__":
    main()
