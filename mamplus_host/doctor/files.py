# SPDX-License-Identifier: Apache-2.0
"""Trials of what defends files: restoration from the vault, guarded paths, data folders."""

import time
from pathlib import Path

from mamplus_host.clock import SystemClock
from mamplus_host.collector.files import FileWatch
from mamplus_host.config import Limits
from mamplus_host.doctor.place import EACCES, EPERM, KILLED, Place
from mamplus_host.doctor.trial import Found, NotEnforced
from mamplus_host.executor.vault.vault import Vault
from mamplus_host.kernel import responder
from mamplus_host.kernel.fileguards import FileGuards
from mamplus_host.kernel.filewatch import FileWatcher, records
from mamplus_host.policy.files import DataFolder, FileRules, Guarded, Program

_NOTICED_S = 2.0
_IN_FORCE_S = 3.0
_REFUSED = (EPERM, EACCES, KILLED)
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
    folder = place.home / "guarded"
    todo = _changes(folder)
    tier = _guard(place, FileRules(guarded=(Guarded(path=str(folder)),)))
    met = place.act(*todo)
    done = [change for change, one in zip(CHANGES, met, strict=True) if one not in _REFUSED]
    if "write" in done or (tier == "lsm" and done):
        raise NotEnforced(f"{', '.join(done)} of a guarded path went through", place.better())
    if not done:
        return Found(tier, f"refused: {', '.join(CHANGES)}", tier == "lsm", "" if tier == "lsm" else place.better())
    refused = [change for change in CHANGES if change not in done]
    return Found(tier, f"refused: {', '.join(refused)}; left to the vault: {', '.join(done)}", False, place.better())


def data_folder(place: Place) -> Found:
    """A folder that only named programs may read."""
    folder = place.home / "data"
    folder.mkdir()
    file = folder / "file"
    file.write_text("for the named program alone")
    readers = (Program(sha256="0" * 64),)  # nobody's
    tier = _guard(place, FileRules(readable=(DataFolder(path=str(folder), readers=readers),)))
    (met,) = place.act(["open", str(file)])
    if met == 0:
        raise NotEnforced("a program that is not named could read the folder", place.better())
    way_out = "" if tier == "lsm" else place.better()
    return Found(tier, "a program that is not named could not read the folder", tier == "lsm", way_out)


def _changes(folder: Path) -> list[tuple[str, ...]]:
    """Return the changes to try, each of a file of its own that is made for it."""
    folder.mkdir(exist_ok=True)
    todo = []
    for change in CHANGES:
        file = folder / change
        file.write_text("as it was")
        todo.append((change, str(file), *([f"{file}.moved"] if change == "rename" else [])))
    return todo


def _guard(place: Place, rules: FileRules) -> str:
    """Have `rules` in force for all but nobody, and return the tier: lsm, or fanotify. NotEnforced: neither."""
    assert place.kernel is not None
    place.kernel.stand_file_hooks()
    guards = FileGuards(place.config, place.kernel.directory, place.kernel.tables.remember)
    try:
        guards.apply(rules)
        if guards.is_enforced:
            return "lsm"
        _watch(place, guards)
        return "fanotify"
    finally:
        guards.leave()  # what these trials start is no child of an agent


def _watch(place: Place, guards: FileGuards) -> None:
    assert place.kernel is not None
    watcher = FileWatcher(responder.files_base(place.config, place.kernel.directory))
    try:
        paths, folders, writers = guards.watched()
        watcher.put(records(paths, folders, writers))
        end = time.monotonic() + _IN_FORCE_S
        while watcher.in_force < len(paths) + len(folders):
            if time.monotonic() > end:
                raise NotEnforced(
                    "no LSM hooks, and the responder could not watch the path by fanotify", place.better()
                )
            time.sleep(0.02)
            watcher.read()
    finally:
        watcher.close()
