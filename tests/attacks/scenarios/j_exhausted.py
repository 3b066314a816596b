# SPDX-License-Identifier: Apache-2.0
"""Using up what a defender needs: descriptors, watches, room in rings, maps and on disks.

Then the listed program starts.

What is used up belongs to the attack alone (a user, a cgroup, a file system, a process of ours); what belongs to the
whole machine is used up only in a virtual one.
"""

import contextlib
import ctypes
import errno
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mamplus_host.errors import KernelRefused
from mamplus_host.kernel import layout, responder
from mamplus_host.kernel.bpf import Map
from mamplus_host.policy.policy import INTERPRETERS
from story.stage import wait_for
from tests.attacks import calls
from tests.attacks.attack import OPENED, STOPPED, Missing, attack, everywhere
from tests.attacks.attacker import DEADLINE_S, Attacker, become
from tests.attacks.ground import Ground
from tests.attacks.outcome import Outcome, Seen
from tests.attacks.scenarios.d_scripts import NOT_SEEN, found
from tests.attacks.scenarios.g_waiting import ANSWERED, DAEMONS, forgetting, frozen_responder

FAMILY = "running out of something"
NOBODY = 54321  # a user that has nothing else
MOST_DESCRIPTORS = 20_000
FEW_DESCRIPTORS = 4
RING_HEAD = 8  # bytes that the ring adds to a record
STARTS_THAT_FILL = layout.EVENTS_BYTES // (layout.FORK.size + layout.EXIT.size + 2 * RING_HEAD) + 500
MORE_THAN_WAIT = layout.HELD_MAX + 64


@attack("no inotify left", FAMILY, STOPPED, bypasses="agents that watch directories with inotify")
def inotify(on: Ground, payload: Path, marker: Path) -> Seen:
    """Uses up all inotify instances of its user (of root, where the machine is a virtual one), and keeps them."""
    payload.parent.chmod(0o755)
    marker.parent.chmod(0o777)

    def deed() -> None:
        if not calls.is_whole_machine_ours():
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        all_descriptors()
        use_up_inotify()
        os.execv(payload, ["x", str(marker)])

    return on.act(deed)


def use_up_inotify() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(MOST_DESCRIPTORS):
        number = libc.inotify_init1(0)
        if number < 0:
            return
        libc.inotify_add_watch(number, b"/", 1)


def all_descriptors() -> int:
    """Allow oneself as many descriptors as one may have; return how many, within a bound."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return min(most, MOST_DESCRIPTORS)


@attack("lost among descriptors", FAMILY, STOPPED, bypasses=f"{DAEMONS} and look for a file in /proc/PID/fd")
def lost(on: Ground, payload: Path, marker: Path) -> Seen:
    """Opens thousands of descriptors, the listed file last, deletes it and starts it by its descriptor: it has no path,
    and whoever wants to hash it looks for it among all of them."""

    def deed() -> None:
        room = all_descriptors() - len(os.listdir("/proc/self/fd")) - 64
        empty = os.open("/dev/null", os.O_RDONLY)
        for _ in range(room):
            os.dup(empty)
        descriptor = os.open(payload, os.O_RDONLY)
        payload.unlink()
        calls.executable_at(descriptor, b"", [b"x", bytes(marker)])

    return on.act(deed)


@attack("no descriptor of one's own left", FAMILY, STOPPED)
def full_table(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts it with every descriptor that it may have in use, and none that is closed by the start."""

    def deed() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        os.dup2(os.open("/dev/null", os.O_RDWR), 0)
        try:
            while True:
                os.set_inheritable(os.dup(0), True)
        except OSError:
            pass
        os.close(255)  # for the marker
        os.execv(payload, ["x", str(marker)])

    return on.act(deed)


@attack("responder without descriptors", FAMILY, ANSWERED, is_alike=True, bypasses=DAEMONS,
        limit="what cannot be opened cannot be hashed: it gets the declared answer (`[exec] on_deadline`)")  # fmt: skip
def blind_responder(on: Ground, payload: Path, marker: Path) -> Seen:
    """Root takes the responder's descriptors away (prlimit), so that it can open nothing."""
    pid = responder.ensure_running(on.agent.config).pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    try:
        seen = on.act(lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (FEW_DESCRIPTORS, before[1])))
        return seen if seen.errno else on.execute(payload, marker)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@attack("full ring", FAMILY, STOPPED, bypasses="agents that decide on what they read from a ring",
        limit="records are lost, and counted; refusals are not")  # fmt: skip
def full_ring(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts and ends thousands of processes while the agent does not read, so that the ring of events has no room."""
    before = on.counters()["lost"]
    on.tool("burst", str(STARTS_THAT_FILL))
    if on.counters()["lost"] == before:
        raise Missing(f"a ring that {STARTS_THAT_FILL} processes fill")
    return on.execute(payload, marker)


@attack("more than may wait", FAMILY, ANSWERED, is_alike=True, settle_s=0.0, bypasses=DAEMONS,
        limit="a start for which there is no room gets the declared answer (`[exec] on_responder_down`)")  # fmt: skip
def no_room(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts more unknown programs than the kernel's maps have room for while nobody answers, then the listed one."""
    other = on.payloads.quiet(payload.with_name("other"))
    crowd = on.programs / "crowd"

    def deed() -> None:
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        os.execv(crowd, [str(crowd), str(MORE_THAN_WAIT), str(other), "x"])

    with frozen_responder(on, "waker"), on.meanwhile(deed):
        await_no_more(on)
        return on.tool("waker", payload, marker)


def await_no_more(on: Ground) -> None:
    """Wait until no further start waits, or is turned away."""
    before, end = -1, time.monotonic() + DEADLINE_S
    while (now := waiting(on)) != before and time.monotonic() < end:
        before = now
        time.sleep(1)


def waiting(on: Ground) -> int:
    """Return how many starts have waited so far, or found no room for it."""
    found = on.agent.kernel.tables.counters()
    return found["held"] + found["hold_lost"]


@attack("forgotten interpreter", FAMILY, OPENED, payload="shell", bypasses="caches of verdicts that many push out",
        limit=NOT_SEEN)  # fmt: skip
def forgotten_shell(on: Ground, payload: Path, marker: Path) -> Seen:
    """Keeps a shell waiting until the kernel has forgotten its hash, and so that it is an interpreter, then has it read
    the listed script (here: the runner fills the kernel's memory, and takes the entry away)."""
    return waiting_shell(on, payload, marker, lambda: forgetting(on, Path(found("sh"))))


@attack("shell older than the policy", FAMILY, OPENED, payload="shell", limit=NOT_SEEN,
        bypasses="agents that look at a program when it starts")  # fmt: skip
def older_shell(on: Ground, payload: Path, marker: Path) -> Seen:
    """Keeps a shell waiting until the policy names another interpreter, when all hashes are forgotten; or until there
    is an agent at all."""

    @contextlib.contextmanager
    def new_policy() -> Iterator[None]:
        on.agent.kernel.interpreters.use((*INTERPRETERS, "of-tomorrow"))
        yield

    try:
        return waiting_shell(on, payload, marker, new_policy)
    finally:
        on.agent.kernel.interpreters.use(INTERPRETERS)
        on.know_tools()


@attack("a thousand interpreters", FAMILY, OPENED, payload="shell", bypasses="lists that forget", limit=NOT_SEEN)
def many_shells(on: Ground, payload: Path, marker: Path) -> Seen:
    """Keeps a shell waiting, and starts thousands of others that are all called sh and differ in a byte, until the
    kernel has no room for what interpreters there are (here: the runner writes them into its map)."""

    @contextlib.contextmanager
    def many() -> Iterator[None]:
        contents = Map.pinned(on.agent.kernel.directory / "interpreters", layout.CONTENT.size, 4)
        with contextlib.suppress(KernelRefused):
            for _ in range(4 * layout.INTERPRETERS_MAX):
                contents.set(os.urandom(layout.CONTENT.size), bytes(4))
        yield

    try:
        return waiting_shell(on, payload, marker, many)
    finally:
        on.agent.kernel.interpreters.use(INTERPRETERS)  # more than half of the room is taken: it begins anew
        on.know_tools()


def waiting_shell(
    on: Ground, payload: Path, marker: Path, meanwhile: Callable[[], contextlib.AbstractContextManager[None]]
) -> Seen:
    """Have a shell that waited during `meanwhile` read the payload."""
    shell, gate = found("sh"), payload.with_name("gate")
    os.mkfifo(gate)
    text = 'read go <"$1"; file=$2; shift 2; . "$file"'
    vector = [os.fsencode(one) for one in (shell, "-c", text, "sh", gate, payload, marker)]
    with contextlib.closing(Attacker.begin(lambda: become(shell, vector, dict(os.environ)), on.cgroup)) as attacker:
        opened = wait_for("the shell", lambda: os.open(gate, os.O_WRONLY | os.O_NONBLOCK), timeout_s=DEADLINE_S)
        with meanwhile():
            pass
        os.write(opened, b"go\n")
        os.close(opened)
        return attacker.wait()


@attack("full disk of the agent", FAMILY, everywhere(Outcome.NOTICED) | {"lsm": Outcome.REFUSED}, subject="agent",
        settle_s=25.0, bypasses="agents that note what they see before they tell it")  # fmt: skip
def full_state(on: Ground, pins: Path, _work: Path) -> Seen:
    """Fills the file system that the agent keeps its state on, then takes its hooks' pins away."""
    from tests.attacks.scenarios.i_agent import act

    seen = act(on, lambda: fill(on.whole.filler))
    return seen if seen.errno else act(on, (pins / "link_mamplus_exec").unlink)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
