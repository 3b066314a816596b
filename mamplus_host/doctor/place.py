# SPDX-License-Identifier: Apache-2.0
"""Where trials happen: a cgroup, a bpffs, a tmpfs and a folder of their own, and a list of their own.

Everything is named after the process that owns it. Mounts lie in a mount namespace of the process and go
with it; cgroup and folder are removed at its end, and what a process left that was killed is removed by the next.
"""

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import msgspec

from mamplus_host.ble.encode import encode
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import Generation
from mamplus_host.config import CGROUP2_MOUNTS, Agent, Config, Paths, Scope
from mamplus_host.doctor import acts
from mamplus_host.errors import MamplusError, NotPossible
from mamplus_host.kernel import features, pins, responder
from mamplus_host.kernel.objects import Kernel
from mamplus_host.kernel.tables import Tables, file_of
from mamplus_host.verdicts import Verdict

PREFIX = "mamplus-doctor-"
CANARY4, CANARY6, CANARY_NAME = "127.53.53.53", "::ffff:127.53.53.54", "canary.mamplus.invalid"
SHELLS = ("sh", "dash", "bash", "busybox*")  # what /bin/sh may be
PLACES = (
    Path(tempfile.gettempdir()),
    Path("/var/tmp"),
    Path("/root"),
)  # of folders; not where an agent keeps its state
OPEN4 = "127.53.53.1"  # nobody lists it
EPERM, EACCES = 1, 13
REFUSED = EPERM  # what `run` returns when exec itself was refused
KILLED = -signal.SIGKILL
RUN_S = 60  # a program of the trials, on a slow and busy device: an interpreter starts
_CLONE_NEWNS = 0x00020000


class Place:
    """One set of trials. Make it in a process that does nothing else: `make_private` moves its mounts aside."""

    def __init__(self, stack: ExitStack, parent: Path | None = None) -> None:
        """`parent`: the cgroup in which one is made; None: the root."""
        self.mount = cgroup_mount()
        parent = parent or self.mount
        remove_left(parent, *PLACES)
        self.home = make_folder(stack)
        self.tag = self.home.name
        self.cgroup = make_cgroup(parent / self.tag, stack)
        bpffs = self.home / "bpf" if self.has_mounted("bpf", "bpf", stack) else Path("/sys/fs/bpf") / self.tag
        for name in ("state", "run"):
            (self.home / name).mkdir()
        self.config = Config(
            scope=Scope(cgroup=str(self.cgroup)),
            paths=Paths(state=str(self.home / "state"), run=str(self.home / "run"), bpffs=str(bpffs / "pins")),
            # Who started the trials must be able to end them: it stands for its own trials alone (`defended`).
            agent=Agent(mode="enforce", self_protection=False),
        )
        self.kernel: Kernel | None = None
        self._stack = stack
        self._watched: Path | Literal[False] | None = None  # False: it cannot be marked
        self.named: tuple[str, ...] = ()  # file systems that an agent which runs here has marked
        self._lines: list[tuple[Kind, str]] = []
        self._others: list[Tables] = []

    def has_mounted(self, kind: str, name: str, stack: ExitStack) -> bool:
        """Mount a file system of our own at home/`name`, when the mounts of this process are its own."""
        path = self.home / name
        path.mkdir()
        done = subprocess.run(["mount", "-t", kind, kind, str(path)], check=False, capture_output=True)
        if done.returncode == 0:
            stack.callback(subprocess.run, ["umount", "-l", str(path)], check=False, capture_output=True)
        return done.returncode == 0

    def attach(self, stack: ExitStack) -> None:
        """Load the probes, and a list that names the canaries. Raises MamplusError."""
        stack.callback(Kernel.detach, self.config)
        stack.callback(responder.stop, self.config)
        self.kernel = Kernel.attach(self.config, self.cgroup)
        stack.callback(self.kernel.close)
        if self.has_hook("open"):
            self.kernel.interpreters.use(SHELLS)
        self.vouch_for_python()
        self.list_values(
            (Kind.IP, CANARY4), (Kind.IP, CANARY6.removeprefix("::ffff:")), (Kind.DOMAIN, CANARY_NAME),
        )  # fmt: skip

    def beside(self, config: Config) -> None:
        """Say which agent runs here: what the trials start is known to its probes, so that only ours act on it."""
        self.named = config.exec.fanotify
        for directory in pins.directories(config):
            with contextlib.suppress(MamplusError):
                self._others.append(Tables(directory))

    def list_values(self, *lines: tuple[Kind, str]) -> None:
        """Put values on the trials' list, to be blocked."""
        assert self.kernel is not None
        self._lines += lines
        entries = [Entry(id=n, kind=k, value=v, verdict=Verdict.BLOCK) for n, (k, v) in enumerate(self._lines, 1)]
        with Generation(encode(entries, generation=len(self._lines), created_s=0)) as generation:
            self.kernel.tables.load(generation, time.time())

    def list_file(self, path: Path) -> None:
        """Put the content of a file on the trials' list; its identity stays unknown."""
        self.list_values((Kind.SHA256, sha256_of(path)))

    def vouch(self, path: Path) -> None:
        """Tell all probes what a file holds: nobody has to wait for its hash."""
        assert self.kernel is not None
        with path.open("rb") as file:
            known, digest = file_of(file.fileno()), hashlib.file_digest(file, "sha256").hexdigest()
        for tables in (self.kernel.tables, *self._others):
            tables.remember(known, digest)

    def vouch_for_python(self) -> None:
        """The interpreter that plays the programs, and what it has mapped."""
        lines = Path("/proc/self/maps").read_text().splitlines()
        mapped = {line.split(None, 5)[5] for line in lines if " r-xp " in line and line.count("/")}
        for name in sorted(mapped):
            with contextlib.suppress(OSError):
                self.vouch(Path(name))

    def program(self, folder: str, base: Path | None = None) -> Path:
        """Make a program that nobody has seen, below `base` (None: our folder)."""
        return new_program((base or self.home) / folder)

    def watched(self) -> Path | None:
        """Return the root of a tmpfs of our own that the responder marks with fanotify; None where it cannot."""
        if self._watched is None:
            self._watched = self._marked()
        return self._watched or None

    def _marked(self) -> Path | Literal[False]:
        assert self.kernel is not None
        path = self.home / "watched"
        if not self.has_mounted("tmpfs", path.name, self._stack):
            return False
        told = msgspec.structs.replace(self.config.exec, fanotify=(str(path),))
        pidfd = os.pidfd_open(self.responder())
        try:
            faults = self.kernel.watching.ask(msgspec.structs.replace(self.config, exec=told), pidfd)
            return False if faults else path
        finally:
            os.close(pidfd)

    def responder(self) -> int:
        """Return the process that answers for the trials; one is started where it has ended."""
        assert self.kernel is not None
        pid = responder.ensure_running(self.config, self.cgroup).pid
        self.kernel.settle_guard(pid)
        return pid

    def defended(self) -> contextlib.AbstractContextManager[bool]:
        """Have the self-protection stand meanwhile, where the kernel takes it; `attach` comes before."""
        assert self.kernel is not None
        return self.kernel.defended()

    def act_outside(self, *todo: Sequence[str], meanwhile: Callable[[], object] = lambda: None) -> list[int]:
        """As `act`, by a program that does not descend from this process."""
        return act_outside(self.cgroup, *todo, meanwhile=meanwhile)

    def for_us_alone(self, path: Path) -> Path:
        """Return `path`, known to the probes of an agent that runs here, unknown to ours."""
        digest = sha256_of(path)
        with path.open("rb") as file:
            for tables in self._others:
                tables.remember(file_of(file.fileno()), digest)
        return path

    def run(self, *words: object, feed: Path | None = None) -> int:
        """Run a program in the trials' cgroup; return its exit code, negative for a signal, REFUSED for no start."""
        return run_in(self.cgroup, *words, feed=feed)

    def act(self, *todo: Sequence[str]) -> list[int]:
        """Have a program in the trials' cgroup do things; return what each met: 0, an errno, or KILLED."""
        return act_in(self.cgroup, *todo)

    def better(self) -> str:
        """Return the way to a better tier than the one that acted here."""
        if self._lsm == features.YES:
            return "nothing in this release does it on this kernel; update mamplus"
        return way_to_lsm(self._lsm)

    @functools.cached_property
    def _lsm(self) -> str:
        return features.lsm()

    def has_hook(self, name: str) -> bool:
        """Whether the probes of the trials have that hook, by the name of its program."""
        assert self.kernel is not None
        return name in self.kernel.hooks()


def way_to_lsm(answer: str) -> str:
    """Return what a person can do where the kernel's answer to an LSM program was `answer`."""
    if "lsm=" in answer:  # it takes them and does not call them
        return "boot with bpf among lsm=..."
    if "not permitted" in answer:
        return "this kernel refuses LSM programs (lockdown, or a sandbox around it): boot it without"
    return "boot a kernel with CONFIG_BPF_LSM (x86_64: 5.7 on, arm64: 6.4 on) and bpf among lsm=..."


def cgroup_mount() -> Path:
    """Return where cgroup v2 is mounted; NotPossible when it is not."""
    mount = next((Path(m) for m in CGROUP2_MOUNTS if (Path(m) / "cgroup.controllers").exists()), None)
    if mount is None:
        raise NotPossible("no cgroup v2 hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup")
    return mount


def make_private() -> None:
    """Give this process mounts of its own, so that none of ours outlives it. Where that is refused, it goes without."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) == 0:
        subprocess.run(["mount", "--make-rprivate", "/"], check=False, capture_output=True)


def run_in(cgroup: Path, *words: object, feed: Path | None = None) -> int:
    """Run a program in `cgroup`; see `Place.run`."""
    source = feed.open("rb") if feed is not None else contextlib.nullcontext(subprocess.DEVNULL)
    with source as stdin:
        try:
            return subprocess.run(
                [str(word) for word in words], preexec_fn=_entering(cgroup), stdin=stdin, capture_output=True,
                timeout=RUN_S, check=False,
            ).returncode  # fmt: skip
        except PermissionError:
            return REFUSED


def new_program(folder: Path) -> Path:
    """Make a program that nobody has seen: touch(1) with another end. It creates the file that it is given."""
    touch = shutil.which("touch")
    if touch is None:
        raise NotPossible("this machine has no touch(1) to try with; install coreutils or busybox")
    path = folder / "touch"  # busybox goes by this name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(touch, path)
    with path.open("ab") as file:
        file.write(secrets.token_bytes(16))
    return path


def act_in(cgroup: Path, *todo: Sequence[str]) -> list[int]:
    """Run `acts` in `cgroup`; see `Place.act`."""
    with _acting(cgroup, _command(todo)) as process:
        out, remarks = process.communicate(timeout=RUN_S)
    met = [int(line) for line in out.split()]
    if len(met) < len(todo) and process.returncode >= 0:
        raise NotPossible(f"the program that tries ended with {process.returncode}: {remarks.strip()[-200:]!r}")
    return met + [process.returncode] * (len(todo) - len(met))


def act_outside(cgroup: Path, *todo: Sequence[str], meanwhile: Callable[[], object]) -> list[int]:
    """Run `acts` as a child of init, or of who stands for it; `meanwhile` is called again and again until it ends."""
    with _acting(cgroup, ["/bin/sh", "-c", '"$@" $$ & :', "sh", *_command([["orphaned"], *todo])]) as process:
        met = [int(line) for line in _read_all(process, meanwhile).split()][1:]
    return met + [KILLED] * (len(todo) - len(met))


def _read_all(process: "subprocess.Popen[str]", meanwhile: Callable[[], object]) -> bytes:
    """Return what comes until the last who holds the pipe has ended."""
    assert process.stdout is not None
    said, end = b"", time.monotonic() + RUN_S
    while time.monotonic() < end:
        meanwhile()
        if select.select([process.stdout], [], [], 0.02)[0]:
            chunk = os.read(process.stdout.fileno(), 4096)
            if not chunk:
                return said
            said += chunk
    raise NotPossible(f"the program that tries did not end within {RUN_S} s")


def _command(todo: Sequence[Sequence[str]]) -> list[str]:
    return [sys.executable, "-I", "-S", acts.__file__, json.dumps(todo)]


def _acting(cgroup: Path, command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command, preexec_fn=_entering(cgroup), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _entering(cgroup: Path) -> Callable[[], None]:
    def enter() -> None:
        (cgroup / "cgroup.procs").write_text("0")

    return enter


def make_folder(stack: ExitStack) -> Path:
    """Make a folder of our own whose programs may be started; it goes with `stack`. NotPossible where there is none."""
    for place in PLACES:
        if _may_start_programs(place):
            path = place / f"{PREFIX}{os.getpid()}-{_started(os.getpid())}-{secrets.token_hex(4)}"
            path.mkdir(mode=0o755)
            stack.callback(shutil.rmtree, path, ignore_errors=True)
            return path
    raise NotPossible(f"programs may not be started from {' or '.join(map(str, PLACES))}: mount one without noexec")


def make_cgroup(path: Path, stack: ExitStack) -> Path:
    """Make a cgroup that goes with `stack`, with whatever runs in it."""
    path.mkdir()
    stack.callback(remove_cgroup, path)
    return path


def remove_cgroup(path: Path) -> None:
    """End what runs in a cgroup, and remove it with those below it."""
    with contextlib.suppress(OSError):
        (path / "cgroup.kill").write_text("1")
    for _ in range(100):
        with contextlib.suppress(OSError):
            for below in path.iterdir():
                if below.is_dir():
                    below.rmdir()
            path.rmdir()
        if not path.exists():
            return
        time.sleep(0.02)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_left(*folders: Path) -> None:
    """Remove what trials left whose process was killed."""
    for folder in (*folders, Path("/sys/fs/bpf")):
        for path in _left(folder):
            _end_responders(path)
            if (path / "cgroup.procs").exists():
                remove_cgroup(path)
            elif (path / "pins").is_dir() and folder == Path("/sys/fs/bpf"):
                pins.remove_all(Config(paths=Paths(bpffs=str(path / "pins"))))
            else:
                shutil.rmtree(path, ignore_errors=True)


def _left(folder: Path) -> Iterator[Path]:
    """Yield what is named after a process that is gone."""
    for path in folder.glob(f"{PREFIX}*-*") if folder.is_dir() else ():
        pid, started, *_ = path.name.removeprefix(PREFIX).split("-")
        if pid.isdigit() and _started(int(pid)) != started and path.lstat().st_uid == 0:
            yield path


def _end_responders(home: Path) -> None:
    """End a responder that was started for trials: it lives in mounts that nobody else sees, and keeps them."""
    for lock in (home / "run").glob("responder-*.lock"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(lock.read_text() or "0")
            if pid and PREFIX in Path(f"/proc/{pid}/cmdline").read_text() and _is_responder(pid):
                within = Path(f"/proc/{pid}/root") / home.relative_to("/") / "bpf" / "pins"
                with contextlib.suppress(MamplusError):
                    Kernel.detach(Config(paths=Paths(bpffs=str(within))))  # takes its guard down, where one stands
                os.kill(pid, signal.SIGTERM)


def _is_responder(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/exe").startswith(str(pins.RESPONDER))


def _started(pid: int) -> str:
    """Return when a process began, in the kernel's ticks: with its number that names it. "": it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _may_start_programs(folder: Path) -> bool:
    return folder.is_dir() and not os.statvfs(folder).f_flag & os.ST_NOEXEC
