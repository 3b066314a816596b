# SPDX-License-Identifier: Apache-2.0
"""Names, arguments and processes that mislead whoever reads them."""

import ctypes
import mmap
import os
import resource
import tempfile
import threading
import time
from pathlib import Path

from tests.attacks import calls
from tests.attacks.attack import STOPPED, UNSEEN, Missing, attack
from tests.attacks.ground import Ground
from tests.attacks.outcome import Seen

NAMES = "strange names"
PROCESSES = "strange processes"
PATHS = "tools that read the path or the arguments at the system call, or cut them off"
PR_SET_NAME = 15


@attack("4,000 bytes of path", NAMES, STOPPED, bypasses=PATHS)
def long_path(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts it by a path of nearly 4,096 bytes, real directories all the way."""
    here = os.open(payload.parent, os.O_PATH)
    name, depth = "d" * 200, 19
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_PATH, dir_fd=here)
        os.close(here)
        here = below
    os.link(payload, "program", dst_dir_fd=here)
    os.close(here)

    def deed() -> None:
        os.chdir(payload.parent)
        path = "/".join([name] * depth + ["program"])
        os.execv("./" * ((4094 - len(path)) // 2) + path, ["x", str(marker)])

    return on.act(deed)


@attack("newline in the name", NAMES, STOPPED, bypasses="logs with one record a line")
def newline(on: Ground, payload: Path, marker: Path) -> Seen:
    """Has a name with a newline, a quote and a terminal's control sequence in it."""
    return on.execute(payload.rename(payload.with_name('a\n"\x1b[2Jb')), marker)


@attack("invalid UTF-8 in the name", NAMES, STOPPED, bypasses="agents that fall over text that they cannot decode")
def invalid_utf8(on: Ground, payload: Path, marker: Path) -> Seen:
    """Has a name that is no UTF-8."""
    name = bytes(payload.parent) + b"/\xff\xfe\xc3("
    os.rename(payload, name)
    return on.execute(name, marker)


@attack("argv and comm", NAMES, STOPPED, bypasses="rules about process names and command lines")
def spoofed(on: Ground, payload: Path, marker: Path) -> Seen:
    """Calls itself systemd in argv[0] and in its comm."""

    def deed() -> None:
        ctypes.CDLL(None).prctl(PR_SET_NAME, b"systemd", 0, 0, 0)
        os.execv(payload, ["/usr/lib/systemd/systemd", str(marker)])

    return on.act(deed)


@attack(
    "path in an untouched page",
    NAMES,
    STOPPED,
    bypasses="eBPF tools that read the path of execve(2) from user memory: it is not there yet, and reads as empty",
)
def untouched(on: Ground, payload: Path, marker: Path) -> Seen:
    """Has the path in a page of a file that is mapped and was never touched."""
    with tempfile.TemporaryFile(dir=payload.parent) as file:
        file.write(bytes(payload) + b"\0")
        file.flush()

        def deed() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            libc.mmap.restype = ctypes.c_void_p
            page = libc.mmap(
                None, ctypes.c_size_t(4096), mmap.PROT_READ, mmap.MAP_PRIVATE, file.fileno(), ctypes.c_long(0)
            )
            vector = (ctypes.c_char_p * 3)(b"x", bytes(marker), None)
            calls.checked(libc.execve(ctypes.c_void_p(page), vector, (ctypes.c_char_p * 1)(None)))

        return on.act(deed)


@attack("path that changes", NAMES, STOPPED, bypasses="tools that read the path twice: at the call and after it")
def changing(on: Ground, payload: Path, marker: Path) -> Seen:
    """Points a link at a good program and at the listed one in turn, without end, and starts the link."""
    link = payload.with_name("link")
    on.payloads.quiet(payload.with_name("good"))
    link.symlink_to("good")
    with on.meanwhile(lambda: _relink(link, payload)):
        return on.until_met(link, marker, tries=60)


def _relink(link: Path, payload: Path) -> None:
    other = link.with_name("other-link")
    while True:
        for target in (payload.name, "good"):
            other.symlink_to(target)
            other.rename(link)


@attack("32-bit program", PROCESSES, STOPPED, payload="elf32", bypasses="filters of 64-bit system call numbers")
def narrow(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts a listed program of 32 bits."""
    return on.execute(payload, marker)


@attack("32-bit caller", PROCESSES, STOPPED, bypasses="filters and probes of 64-bit system call numbers")
def narrow_caller(on: Ground, payload: Path, marker: Path) -> Seen:
    """A program of 32 bits starts the listed one with its own execve (int $0x80)."""
    if not (on.programs / "caller32").exists():
        raise Missing("programs of 32 bits")
    return on.tool("caller32", payload, marker)


@attack("from a thread", PROCESSES, STOPPED, bypasses="tools that take the thread for the process")
def from_thread(on: Ground, payload: Path, marker: Path) -> Seen:
    """Calls execve(2) in a thread that is not the first."""

    def deed() -> None:
        thread = threading.Thread(target=lambda: os.execv(payload, ["x", str(marker)]))
        thread.start()
        thread.join()

    return on.act(deed)


@attack("PID 1 of a namespace", PROCESSES, STOPPED, bypasses="exceptions for PID 1; signals that an init ignores")
def namespace_init(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts it as the init of a new PID namespace, which ignores signals from within."""

    def deed() -> int:
        calls.unshare(calls.CLONE_NEWPID)
        return calls.child(lambda: os.execv(payload, ["x", str(marker)]))

    return on.act(deed)


@attack("all signals blocked", PROCESSES, STOPPED, bypasses="answers that a program may block")
def blocked_signals(on: Ground, payload: Path, marker: Path) -> Seen:
    """Blocks and ignores every signal first."""
    import signal

    def deed() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.execv(payload, ["x", str(marker)])

    return on.act(deed)


@attack("another user", PROCESSES, STOPPED)
def another_user(on: Ground, payload: Path, marker: Path) -> Seen:
    """Becomes nobody, in a user namespace where it is root."""
    payload.parent.chmod(0o755)
    marker.parent.chmod(0o777)

    def deed() -> None:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        calls.unshare(calls.CLONE_NEWUSER)
        os.execv(payload, ["x", str(marker)])

    return on.act(deed)


@attack("a cgroup below", PROCESSES, STOPPED)
def cgroup_below(on: Ground, payload: Path, marker: Path) -> Seen:
    """Moves into a cgroup below the scope first, in a cgroup namespace of its own."""
    below = on.cgroup / "below"
    below.mkdir(exist_ok=True)

    def deed() -> None:
        calls.unshare(calls.CLONE_NEWCGROUP)
        os.execv(payload, ["x", str(marker)])

    return on.act(deed, cgroup=below)


OUTSIDE = 'with a scope smaller than the root cgroup, root may leave it; `[scope] cgroup = "/"` has no outside'
CRASH_S = 30.0


@attack("out of the scope", PROCESSES, UNSEEN, limit=OUTSIDE)
def leaves_scope(on: Ground, payload: Path, marker: Path) -> Seen:
    """Root moves itself into a cgroup outside of the scope, then starts it."""

    def deed() -> None:
        (on.cgroup.parent / "cgroup.procs").write_text("0")
        os.execv(payload, ["x", str(marker)])

    return on.act(deed)


@attack("born out of the scope", PROCESSES, UNSEEN, limit=OUTSIDE, bypasses="what watches cgroup.procs")
def born_outside(on: Ground, payload: Path, marker: Path) -> Seen:
    """Root has clone3(2) put a child into a cgroup outside of the scope (CLONE_INTO_CGROUP), which starts it."""

    def deed() -> int:
        outside = os.open(on.cgroup.parent, os.O_RDONLY | os.O_DIRECTORY)
        return calls.child(lambda: os.execv(payload, ["x", str(marker)]), lambda: calls.fork_into(outside))

    return on.act(deed)


@attack("core_pattern", PROCESSES, UNSEEN, limit=f"the kernel starts its helpers in the root cgroup: {OUTSIDE}",
        bypasses="what follows a program's descendants")  # fmt: skip
def core_pattern(on: Ground, payload: Path, marker: Path) -> Seen:
    """Root has the kernel start it for a process that crashes (kernel.core_pattern; in a machine of its own)."""
    if not calls.is_whole_machine_ours():
        raise Missing("a machine of its own: the setting is that of all")
    setting, short = Path("/proc/sys/kernel/core_pattern"), Path(tempfile.mkdtemp(dir="/tmp"))
    before = setting.read_text()
    (short / "p").symlink_to(payload)  # the setting has room for 127 bytes
    (short / "m").symlink_to(marker)

    def deed() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.abort()

    def write() -> None:
        setting.write_text(f"|{short}/p {short}/m")

    try:
        seen = on.act(write)
        if not seen.errno:
            on.act(deed)
            end = time.monotonic() + CRASH_S
            while not marker.exists() and time.monotonic() < end:
                time.sleep(0.05)
        return seen
    finally:
        setting.write_text(before)
