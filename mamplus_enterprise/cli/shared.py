# SPDX-License-Identifier: Apache-2.0
"""What the commands share: where the enterprise is, who is at the keyboard, how things are shown."""

import os
import pwd
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from mamplus_enterprise.home import Home
from mamplus_host.errors import ConfigInvalid

if TYPE_CHECKING:
    from mamplus_enterprise.ble.keys import Signers
    from mamplus_enterprise.ble.publish import Request
    from mamplus_enterprise.ble.repository import Published
    from mamplus_enterprise.ble.roles import Quorum
    from mamplus_enterprise.ble.steps import Steps
    from mamplus_enterprise.storage.store import Store


TOLD_EVERY_S = 10.0  # of progress, where no terminal is


@dataclass(frozen=True, slots=True)
class Where:
    """The options that every command takes."""

    directory: Path | None
    passphrase_file: Path | None
    keys: tuple[Path, ...] = ()


def home_of(context: typer.Context) -> Home:
    where: Where = context.obj
    if where.directory is None:
        raise ConfigInvalid("which enterprise? Say --dir DIR, the directory that `init` made")
    return Home.open(where.directory)


def passphrase_of(context: typer.Context) -> bytes | None:
    from mamplus_enterprise.ble.keys import read_passphrase

    where: Where = context.obj
    return read_passphrase(where.passphrase_file)


def keys_of(context: typer.Context) -> tuple[Path, ...]:
    """Return the directories of the offline keys; none: they are looked for in DIR/keys alone."""
    where: Where = context.obj
    return where.keys


def quorum(role: str, keys: int, threshold: int) -> "Quorum":
    """Return how many of the keys of `role` must sign; ConfigInvalid when that cannot be."""
    from mamplus_enterprise.ble.roles import Quorum

    try:
        return Quorum(keys, threshold)
    except ValueError as error:
        raise ConfigInvalid(f"role {role}: {error}") from None


@contextmanager
def opened(context: typer.Context) -> "Iterator[tuple[Home, Store]]":
    """Yield the enterprise and its database, and close it."""
    from mamplus_enterprise.storage.store import Store

    home = home_of(context)
    store = Store(home)
    try:
        yield home, store
    finally:
        store.close()


@contextmanager
def bar(what: str, total: int, *, is_bytes: bool = False) -> "Iterator[Callable[[int], None]]":
    """Yield what is told how much of `total` is done: a bar on stderr, or a line now and then where none can be."""
    if not sys.stderr.isatty():
        yield _lines(what, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    amount = DownloadColumn() if is_bytes else MofNCompleteColumn()
    columns = (TextColumn(what), BarColumn(), amount, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=total)
        yield lambda done: shown.update(task, completed=done)


@contextmanager
def steps_bar(what: str, total: int) -> "Iterator[Steps]":
    """Yield what counts the steps of the work; `total`: how many there are, or nearly so."""
    from mamplus_enterprise.ble.steps import Steps

    with bar(what, total) as progress:
        yield Steps(progress)


def publish_with_bar(home: Home, store: "Store", signers: "Signers", request: "Request") -> "Published":
    """Publish, and say meanwhile how far it is. What asks for a passphrase comes before: a bar would write over it."""
    from mamplus_enterprise.ble import author
    from mamplus_enterprise.ble.publish import publish

    with store.reading() as session:
        waiting = author.unpublished(session)
    with steps_bar("publish", 2 * waiting) as steps:
        return publish(home, store, signers, replace(request, steps=steps))


def _lines(what: str, total: int) -> Callable[[int], None]:
    """Return what writes a line every TOLD_EVERY_S: in the log of a job, work of minutes must not look dead."""
    begun_s = told_s = time.monotonic()

    def tell(done: int) -> None:
        nonlocal told_s
        now_s = time.monotonic()
        if total and now_s - told_s >= TOLD_EVERY_S:
            told_s = now_s
            remark(f"{what}: {min(100, 100 * done // total)} % after {now_s - begun_s:.0f} s")

    return tell


def who() -> str:
    """Return the name of the user, by the kernel's account of it."""
    try:
        return f"{pwd.getpwuid(os.getuid()).pw_name} (command line)"
    except KeyError:
        return f"user {os.getuid()} (command line)"


def remark(text: str) -> None:
    """Say something that is not the result."""
    print(text, file=sys.stderr)


def print_json(value: Any) -> None:
    """Print one value, on one line."""
    print(msgspec.json.encode(value).decode())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print for people. Cells may hold untrusted text: it is neither markup nor control characters."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell)), overflow="fold") for cell in row))
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)


def printable(text: str) -> str:
    """Return untrusted text so that it can stand in a terminal."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
