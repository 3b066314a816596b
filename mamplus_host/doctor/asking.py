# SPDX-License-Identifier: Apache-2.0
"""Starts the process that tries the controls, and reads what it says."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

import mamplus_host
from mamplus_host.config import Config
from mamplus_host.doctor.trial import Trial
from mamplus_host.errors import NotPossible

HELPER = "mamplus_host.doctor.helper"
TOTAL_S = 900.0  # of all trials together, on a slow and busy device
_ENDED_S = 15.0


def examine(config: Config | None, *, kernel: bool, agent: bool) -> Iterator[Trial]:
    """Yield each trial as it ends; NotPossible when the process did not end well. For people who wait for it."""
    process = _started(config, _words(kernel=kernel, agent=agent))
    assert process.stdout is not None
    try:
        for line in process.stdout:
            yield msgspec.json.decode(line, type=Trial)
        _require(process.wait(), process)
    finally:
        _end(process)


def examine_aside(
    config: Config, *, kernel: bool, agent: bool, on_started: Callable[[int], object], total_s: float = TOTAL_S
) -> list[Trial]:
    """Return all trials, tried by a process that gives way to everything else; NotPossible when it did not end well.

    `on_started` is given its process id.
    """
    process = _started(config, [*_words(kernel=kernel, agent=agent), "--nice"])
    on_started(process.pid)
    try:
        out, remarks = process.communicate(timeout=total_s)
        _require(process.returncode, process, remarks)
        return [msgspec.json.decode(line, type=Trial) for line in out.splitlines()]
    except subprocess.TimeoutExpired:
        raise NotPossible(f"trying the controls took more than {total_s:g} s and was ended") from None
    except msgspec.MsgspecError as error:
        raise NotPossible(f"the process that tries the controls said what cannot be read: {error}") from None
    finally:
        _end(process)


def _words(*, kernel: bool, agent: bool) -> list[str]:
    return [*(["--kernel"] if kernel else []), *(["--agent"] if agent else [])]


def _started(config: Config | None, words: list[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", HELPER, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": str(Path(mamplus_host.__file__).parent.parent), "LANG": "C.UTF-8", "PATH": _PATH},
    )  # fmt: skip
    assert process.stdin is not None
    with process.stdin:
        process.stdin.write(msgspec.json.encode(config) if config is not None else b"")
    process.stdin = None
    return process


def _require(code: int, process: subprocess.Popen[bytes], remarks: bytes = b"") -> None:
    if code != 0:
        remarks = remarks or (process.stderr.read() if process.stderr else b"")
        last = remarks.decode(errors="replace").strip().rpartition("\n")[2]
        raise NotPossible(f"the process that tries the controls ended with {code} and said {last[:300]!r}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it if it still runs, and let it clean up first.

    Where it tries its self-protection at this moment, that refuses our signals: it ends without them, soon.
    """
    if process.poll() is None:
        with contextlib.suppress(PermissionError):
            process.terminate()
        try:
            process.wait(_ENDED_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(PermissionError):
                process.kill()  # the next one removes what this one leaves
            process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
