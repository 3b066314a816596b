# SPDX-License-Identifier: Apache-2.0
"""Trials of the exec control: a listed program under several names, and one that nobody has seen."""

import shutil
from pathlib import Path

from mamplus_host.doctor.place import KILLED, REFUSED, Place
from mamplus_host.doctor.trial import Found, NotEnforced


def listed_program(place: Place) -> Found:
    """A listed program must not run, whatever its name."""
    listed, marker = place.program("listed"), place.home / "ran"
    place.list_file(listed)
    met = set()
    for name in ("copy-1", "copy-2"):
        copy = place.home / name / "touch"
        copy.parent.mkdir()
        shutil.copy(listed, copy)
        met.add(place.run(place.for_us_alone(copy), marker))
    if marker.exists() or not met <= {KILLED, REFUSED}:
        raise NotEnforced(f"a listed program ran (exit {sorted(met)})")
    known = _again(place, listed, marker)
    if known == REFUSED:
        tier = "lsm" if place.has_hook("bprm") else "fanotify"
        return Found(tier, "refused under two names before its first instruction", is_best=tier == "lsm")
    return Found("signal", "killed before its first instruction, under two names", False, place.better())


def _again(place: Place, listed: Path, marker: Path) -> int:
    """Start a listed program whose content the kernel remembers."""
    place.vouch(listed)
    code = place.run(listed, marker)
    if marker.exists() or code not in (KILLED, REFUSED):
        raise NotEnforced(f"a listed program that is known ran (exit {code})")
    return code


def unknown_program(place: Place) -> Found:
    """A program that nobody has seen waits for its hash, and runs when nothing is against it."""
    marker = place.home / "ran-unlisted"
    code = place.run(place.for_us_alone(place.program("unlisted")), marker)
    if code != 0 or not marker.exists():
        raise NotEnforced(f"an unlisted program did not run (exit {code})")
    assert place.kernel is not None
    if place.kernel.tables.counters()["held"] == 0:
        raise NotEnforced("a program that nobody has seen ran without waiting for its hash")
    if place.has_hook("bprm"):
        return Found("lsm", "its start was undone, and made again when the responder had hashed it")
    return Found("signal", "stopped before its first instruction, hashed by the responder, then ran")
