# SPDX-License-Identifier: Apache-2.0
"""Trials of what defends files: restoration from the vault, guarded paths, data folders."""

import time
from pathlib import Path

from mamplus_host.clock import SystemClock
from mamplus_host.collector.files import FileWatch
from mamplus_host.config import Limits
from mamplus_host.doctor.place import EACCES, EPERM, KILLED, Place
from mamplus_host.doctor.trial import Found, NotEnforced
from mamplus_host.executor.vault import Vault

_NOTICED_S = 2.0
CHANGES = ("write", "map-write", "truncate", "chmod", "link", "rename-over", "rename", "unlink")


def protected(place: Place) -> Found:
    """Damage to a protected file is noticed and put back."""
    file = place.home / "protected" / "file"
    file.parent.mkdir()
    file.write_text("as it was")
    vault = Vault(place.home / "state" / "vault", limits=Limits(), clock=SystemClock())
    vault.protect(file)
    watch = FileWatch.open(vault.paths())
    try:
        place.run("/bin/sh", "-c", f"echo damaged > {file}")
        writer = _writer(watch)
        vault.restore(file)
        if file.read_text() != "as it was":
            raise NotEnforced("the file is not as it was")
        return Found("restored", f"noticed by {watch.tier}, which {writer}; put back", False, place.better())
    finally:
        watch.close()
        vault.close()


def _writer(watch: FileWatch) -> str:
    end = time.monotonic() + _NOTICED_S
    while not (changes := watch.read()):
        if time.monotonic() > end:
            raise NotEnforced(f"{watch.tier} did not tell of a write")
        time.sleep(0.01)
    return "names the writer" if changes[0].tgid else "cannot name the writer"


def guarded(place: Place) -> Found:
    """Every way to change a guarded path, by a program in scope."""
    done = _changes_done(place, place.home / "guarded")
    if done:
        raise NotEnforced(f"nothing in this release guards a path: {', '.join(done)} went through", place.better())
    return Found("lsm", f"refused: {', '.join(CHANGES)}")


def _changes_done(place: Place, folder: Path) -> list[str]:
    """Return the changes that a program in scope could make, each to a file of its own."""
    folder.mkdir(exist_ok=True)
    todo = []
    for change in CHANGES:
        file = folder / change
        file.write_text("as it was")
        todo.append((change, str(file), *([f"{file}.moved"] if change == "rename" else [])))
    met = place.act(*todo)
    return [change for change, one in zip(CHANGES, met, strict=True) if one not in (EPERM, EACCES, KILLED)]


def data_folder(place: Place) -> Found:
    """A folder that only named programs may read."""
    folder = place.home / "data"
    folder.mkdir()
    (folder / "file").write_text("for the named program alone")
    (met,) = place.act(["open", str(folder / "file")])
    if met == 0:
        raise NotEnforced("nothing in this release keeps a folder for named programs", place.better())
    return Found("lsm", "a program that is not named could not read the folder")
