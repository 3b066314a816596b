# SPDX-License-Identifier: Apache-2.0
"""Trials of listed content that is not started as a program: libraries, `ld.so FILE`, scripts, plain files."""

import secrets
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from mamplus_host.doctor.place import EACCES, EPERM, KILLED, REFUSED, Place
from mamplus_host.doctor.trial import Found, NotEnforced
from mamplus_host.errors import NotPossible
from mamplus_host.kernel import pins

REFUSALS = (EPERM, EACCES, KILLED)
_PT_INTERP = 3


def here_or_marked(trial: Callable[[Place, Path], Found]) -> Callable[[Place], Found]:
    """Try it on a file system like any other, and where nothing refuses there, on one that fanotify marks."""

    def tried(place: Place) -> Found:
        try:
            return trial(place, place.home)
        except NotEnforced as plain:
            return _marked(place, trial, plain)

    return tried


def _marked(place: Place, trial: Callable[[Place, Path], Found], plain: NotEnforced) -> Found:
    folder = place.watched()
    if folder is None:
        raise plain
    try:
        found = trial(place, folder)
    except NotEnforced:
        raise plain from None
    if not place.named:
        way = f"name file systems with [exec] fanotify; best: {plain.way_out}"
        raise NotEnforced(f"{plain}; on a file system that fanotify marks it is refused, and none is named here", way)
    named = ", ".join(place.named)
    return Found(
        "fanotify", f"{found.detail}, on the file systems of {named}; not seen elsewhere", False, plain.way_out
    )


def library(place: Place, folder: Path) -> Found:
    """A listed library must not become executable memory: mmap(PROT_EXEC), and dlopen, which does that."""
    listed = folder / "library.so"
    shutil.copy(_a_library(), listed)
    with listed.open("ab") as file:
        file.write(secrets.token_bytes(16))
    place.list_file(place.for_us_alone(listed))
    met = [place.act(["map-exec", str(listed)])[0], place.act(["load", str(listed)])[0]]
    if any(one not in REFUSALS for one in met):
        raise NotEnforced("a listed library was mapped executable", place.better())
    return _found(place, "mmap", met, "a listed library was not mapped executable, nor loaded by dlopen")


def through_loader(place: Place, folder: Path) -> Found:
    """`ld.so FILE` starts a program that exec never sees."""
    listed, marker = place.program("through-loader", folder), folder / "ran-through-loader"
    place.list_file(place.for_us_alone(listed))
    code = place.run(interpreter_of(listed), listed, marker)
    if marker.exists() or code == 0:
        raise NotEnforced("`ld.so FILE` ran a listed program", place.better())
    return _found(place, "mmap", [code], "`ld.so FILE` of a listed program did not run it")


def script(place: Place, folder: Path) -> Found:
    """A listed script: started, given to its interpreter, and fed to it."""
    listed, marker = folder / "script", place.home / "script-ran"
    listed.write_text(f'#!/bin/sh\n: > "{marker}"\n# {secrets.token_hex(16)}\n')
    listed.chmod(0o755)
    place.list_file(place.for_us_alone(listed))
    place.vouch(Path("/bin/sh").resolve())
    ran, met = [], []
    for how, words in (("started", [listed]), ("as `sh FILE`", ["/bin/sh", listed])):
        met.append(place.run(*words))
        if marker.exists():
            ran.append(how)
            marker.unlink()
    if len(ran) == len(met):
        raise NotEnforced("a listed script ran: it is judged by its interpreter alone", place.better())
    if ran:
        return Found(
            _tier(place, "open", met),
            f"a listed script ran {ran[0]}, and not otherwise",
            False,
            place.better(),
        )
    return _found(place, "open", met, "a listed script did not run, started or as `sh FILE`")


def plain_file(place: Place, folder: Path) -> Found:
    """A listed file that is known must not be opened, by whomever."""
    listed = folder / "document"
    listed.write_bytes(secrets.token_bytes(64))
    place.list_file(listed)
    place.vouch(listed)
    (met,) = place.act(["open", str(listed)])
    if met not in REFUSALS:
        raise NotEnforced("a listed file was opened and could be read", place.better())
    return _found(place, "open", [met], "a listed file could not be opened")


def _found(place: Place, hook: str, met: list[int], detail: str) -> Found:
    tier = _tier(place, hook, met)
    return Found(tier, detail, is_best=tier == "lsm" and KILLED not in met)


def _tier(place: Place, hook: str, met: list[int]) -> str:
    """Say what acted: an error comes from where the hook is, a kill from the responder after it hashed."""
    if place.has_hook(hook):
        return "lsm"
    return "signal" if KILLED in met and REFUSED not in met else "fanotify"


def _a_library() -> Path:
    return next(pins.HERE.glob("_native*.so"))


def interpreter_of(program: Path) -> Path:
    """Return the dynamic loader that an ELF file names (PT_INTERP); NotPossible when it names none."""
    data = program.read_bytes()
    if data[:4] != b"\x7fELF":
        raise NotPossible(f"{program.name} is no ELF file: nothing to try")
    is_64 = data[4] == 2
    order = "<" if data[5] == 1 else ">"
    (offset,) = struct.unpack_from(order + ("Q" if is_64 else "I"), data, 32 if is_64 else 28)
    size, count = struct.unpack_from(order + "HH", data, 54 if is_64 else 42)
    for number in range(count):
        kind, at, length = _segment(data, offset + number * size, order, is_64=is_64)
        if kind == _PT_INTERP:
            return Path(data[at : at + length].rstrip(b"\0").decode())
    raise NotPossible("the programs of this machine are static: there is no dynamic loader to go through")


def _segment(data: bytes, at: int, order: str, *, is_64: bool) -> tuple[int, int, int]:
    """Return kind, file offset and size of a program header."""
    if is_64:
        kind, _flags, offset, _virtual, _physical, size = struct.unpack_from(order + "IIQQQQ", data, at)
    else:
        kind, offset, _virtual, _physical, size = struct.unpack_from(order + "IIIII", data, at)
    return kind, offset, size
