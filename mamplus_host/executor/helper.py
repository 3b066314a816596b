# SPDX-License-Identifier: Apache-2.0
"""Runs our short-lived helpers: what is needed seldom (python-iptables, pyroute2, keys) never stays in the service.

Journey: netfilter, secondlayer, cut, boxes, wipe, mounts, bus, luks, ... -> [helper] -> *_helper, cryptsetup.

A helper says what is wrong in the last line of its stderr, for people.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, BinaryIO
from weakref import WeakSet

from mamplus_host.errors import ActionFailed, MamplusError

_BEAT_S = 1.0
_running: dict[threading.Thread, "subprocess.Popen[bytes]"] = {}  # by the thread that waits
_STOPS = "the agent stops"
_ended = WeakSet[threading.Thread]()  # that are to start nothing any more
END_S = 2.0  # for a helper that was killed


def line(name: str, *words: str) -> list[str]:
    """Return the command line of a helper."""
    return [sys.executable, "-P", "-m", f"mamplus_host.executor.{name}", *words]


def run(
    name: str, *words: str, within_s: float, late: str, what: str = "", failed: type[MamplusError] = ActionFailed,
    told: bytes = b"", keeps: tuple[int, ...] = (), alive: Callable[[], object] = int,
) -> bytes:  # fmt: skip
    """Return what `mamplus_host.executor.NAME WORDS` printed; `failed` where it does not succeed.

    `late`: the whole sentence when it has not ended after `within_s`; `what`: how the sentence begins for other
    failures. `told`: its stdin. `keeps`: descriptors that it gets, under their numbers. `alive` is called meanwhile,
    so that the watchdog does not end an agent that waits; a thread beside the service's loop leaves it out.
    """
    try:
        with _file(told) as stdin:
            done = program(line(name, *words), within_s=within_s, stdin=stdin, keeps=keeps, alive=alive)
    except subprocess.TimeoutExpired:
        raise failed(late) from None
    except OSError as error:
        raise failed(f"{what}{name} does not run: {error}") from None
    if done.returncode:
        said = done.stderr.decode(errors="backslashreplace").strip().splitlines()
        raise failed(f"{what}{said[-1] if said else f'{name} ended with code {done.returncode}'}")
    return done.stdout


def program(
    command: list[str], *, within_s: float, stdin: IO[bytes] | int = subprocess.DEVNULL, keeps: tuple[int, ...] = (),
    alive: Callable[[], object] = int,
) -> "subprocess.CompletedProcess[bytes]":  # fmt: skip
    """Return what came of a program; TimeoutExpired, or OSError when it does not run, or the agent stops."""
    thread, pipe = threading.current_thread(), subprocess.PIPE
    if thread in _ended:
        raise InterruptedError(_STOPS)
    started = subprocess.Popen(command, stdin=stdin, stdout=pipe, stderr=pipe, pass_fds=keeps)
    _running[thread] = started
    if thread in _ended:  # meanwhile
        started.kill()
    try:
        out, err = _wait(started, time.monotonic() + within_s, alive)
    except BaseException:
        _give_up(started)
        raise
    finally:
        del _running[thread]
    if thread in _ended:  # it may have been cut off, and says nothing of what there is
        raise InterruptedError(_STOPS)
    return subprocess.CompletedProcess(command, started.returncode, out, err)


def _file(content: bytes) -> BinaryIO:
    """Return a file in memory to be read. No pipe: `communicate` does not go on writing once it has timed out."""
    file = os.fdopen(os.memfd_create("told", os.MFD_CLOEXEC), "w+b")
    file.write(content)
    file.seek(0)
    return file


def end_of(thread: threading.Thread) -> None:
    """End the helper that a thread waits for, and have it start no more: the agent stops, and they must not outlive it.

    One that writes to a dead disk ends when the kernel lets it go.
    """
    _ended.add(thread)
    if helper := _running.get(thread):
        helper.kill()


def _give_up(helper: "subprocess.Popen[bytes]") -> None:
    """End a helper; one that the kernel does not let go (a dead disk) is left to it: who waits has to go on."""
    helper.kill()
    with suppress(subprocess.TimeoutExpired):
        helper.wait(END_S)
    for stream in (helper.stdout, helper.stderr):
        if stream is not None:
            stream.close()


def _wait(helper: "subprocess.Popen[bytes]", until_s: float, alive: Callable[[], object]) -> tuple[bytes, bytes]:
    """Return stdout and stderr of a helper that has ended; TimeoutExpired when that is not until `until_s`."""
    while True:
        alive()
        left_s = max(0.0, until_s - time.monotonic())
        try:
            return helper.communicate(timeout=min(_BEAT_S, left_s))
        except subprocess.TimeoutExpired:
            if time.monotonic() >= until_s:
                raise
