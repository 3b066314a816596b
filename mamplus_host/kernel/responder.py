# SPDX-License-Identifier: Apache-2.0
"""Starts and stops the responder, the C process that hashes programs that wait.

The agent needs it only to be there: it is its own session, lives through the agent's end,
and an agent that comes later finds it by its lock file. kernel_probes/native/responder.c.
"""

import hashlib
import os
import select
import signal
import subprocess
from pathlib import Path

import msgspec

from mamplus_host.config import Config, cgroup_dir
from mamplus_host.errors import NotPossible
from mamplus_host.kernel import pins
from mamplus_host.kernel.tables import Tables, file_of

_ANOTHER_RUNS = 3
_START_TIMEOUT_S = 10
_STOP_TIMEOUT_S = 10.0


class Responder(msgspec.Struct, frozen=True):
    """A responder that answers."""

    pid: int
    adopted: bool  # it ran before


def ensure_running(config: Config, cgroup: Path | None = None) -> Responder:
    """Return the responder of this agent's pins; start one when there is none. `cgroup`: the scope's.

    NotPossible when it cannot be started: without one, unknown programs get the declared answer.
    """
    directory = pins.directory_for(config, cgroup or cgroup_dir(config))
    _let_start(directory)
    command = [str(pins.RESPONDER), "--bpffs", str(directory), "--lock", str(_lock(config, directory))]
    try:
        config.run.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_START_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotPossible(f"the responder does not start: {error}") from None
    if done.returncode not in (0, _ANOTHER_RUNS) or not done.stdout.strip().isdigit():
        raise NotPossible(f"the responder ended with {done.returncode} instead of answering; its stderr says why")
    return Responder(int(done.stdout), done.returncode == _ANOTHER_RUNS)


def stop(config: Config) -> None:
    """End every responder of ours; each answers what waits first, so this may last as long as the deadline."""
    for directory in pins.directories(config):
        end_of(config, directory)


def end_of(config: Config, directory: Path) -> None:
    """End the responder that serves `directory`, after it has answered what waits; nothing when there is none."""
    pid = running(config, directory)
    if pid:
        _end(pid)


def running(config: Config, directory: Path) -> int:
    """Return the pid of the responder that serves `directory`, 0 when none does."""
    try:
        with _lock(config, directory).open("rb") as file:
            pid = int(file.read() or b"0")
        is_ours = pid and os.readlink(f"/proc/{pid}/exe").startswith(str(pins.RESPONDER))
    except (OSError, ValueError):
        return 0
    return pid if is_ours else 0


def files_base(config: Config, directory: Path) -> Path:
    """Return the name, without suffix, of what lies beside the lock for the rules about files."""
    return _lock(config, directory).with_suffix("")


def _lock(config: Config, directory: Path) -> Path:
    return config.run / f"responder-{directory.name}.lock"


def _end(pid: int) -> None:
    """Send SIGTERM and wait: through a pidfd, so that nobody else who gets this pid is meant."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)  # should somebody have stopped it
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(_STOP_TIMEOUT_S * 1000)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def _let_start(directory: Path) -> None:
    """Make the responder's own program known: with nobody there to hash it, it would get the declared answer."""
    with pins.RESPONDER.open("rb") as file:
        Tables(directory).remember(file_of(file.fileno()), hashlib.file_digest(file, "sha256").hexdigest())
