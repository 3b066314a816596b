# SPDX-License-Identifier: Apache-2.0
"""The enterprise's command line as processes that begin with everything imported.

Importing, and compiling the warninglists, costs a command many times what it does. So one process does both, and
each command is a fork of it: a process of its own, with its own words, environment, directory, output and exit code.
What the program's start does before (its script, its imports) is what `test_guide.py` runs, every command of the guide.
"""

import io
import multiprocessing
import os
import pkgutil
import subprocess
import sys
import tempfile
from functools import cache
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from typing import Any

import mamplus_enterprise


class _End:
    """A descriptor that goes along when the process it is handed to starts."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getstate__(self) -> Any:
        return DupFd(self.number)

    def __setstate__(self, sent: Any) -> None:
        self.number = sent.detach()


def begin(words: list[str], out: int, err: int) -> BaseProcess:
    """Start the program with these words; what it says goes to the descriptors `out` and `err`."""
    arguments = (words, dict(os.environ), os.getcwd(), _End(out), _End(err))
    process = _forks().Process(target=_become, args=arguments)
    process.start()
    return process


def run(words: list[str], timeout_s: float) -> "subprocess.CompletedProcess[str]":
    """Run the program to its end, as `subprocess.run` does; TimeoutExpired after `timeout_s`."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = begin(words, out.fileno(), err.fileno())
        try:
            code = wait(process, timeout_s)
        finally:
            process.kill()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, code, out.read(), err.read())


def wait(process: BaseProcess, timeout_s: float) -> int:
    """Return the exit code, negative for a signal; TimeoutExpired after `timeout_s`."""
    process.join(timeout_s)
    if process.exitcode is None:
        raise subprocess.TimeoutExpired(process.name, timeout_s)
    return process.exitcode


@cache
def _forks() -> ForkServerContext:
    """Name what the process that is forked has imported; it starts with the first command and ends with the tests."""
    modules = pkgutil.walk_packages(mamplus_enterprise.__path__, f"{mamplus_enterprise.__name__}.")
    context = multiprocessing.get_context("forkserver")
    # Migrations are scripts, which alembic runs.
    imported = [one.name for one in modules if ".migrations." not in one.name]
    context.set_forkserver_preload([*imported, "tests.enterprise.compiled"])
    return context


def _become(words: list[str], environment: dict[str, str], directory: str, out: _End, err: _End) -> None:
    os.dup2(out.number, 1)
    os.dup2(err.number, 2)
    os.close(out.number)
    os.close(err.number)
    sys.stdout = io.TextIOWrapper(_buffered(1))  # what was forked had another one
    sys.stderr = io.TextIOWrapper(_buffered(2), errors="backslashreplace", line_buffering=True)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.argv = ["mamplus-enterprise", *words]
    from mamplus_enterprise.cli.main import main

    main()


def _buffered(number: int) -> io.BufferedWriter:
    return io.BufferedWriter(io.FileIO(number, "w", closefd=False))
