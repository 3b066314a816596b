# SPDX-License-Identifier: Apache-2.0
"""Trials of self-protection: on the responder and the pins of the trials, by a program that is none of ours."""

import os
import select
import time

from mamplus_host.collector.decode import decode_run
from mamplus_host.doctor.place import EACCES, EPERM, Place
from mamplus_host.doctor.trial import Found, NotEnforced
from mamplus_host.events import Tamper
from mamplus_host.kernel import layout, pins
from mamplus_host.tamper.pins import Pins
from mamplus_host.tamper.process import Process

_REFUSALS = (EPERM, EACCES)
_TRACED_S = "0.5"  # how long the tracer stays
_NOTICED_S = 2.0
_ENDED_S = 5.0


def signals(place: Place) -> Found:
    """SIGTERM from a program in scope, as root."""
    target = place.responder()
    pidfd = os.pidfd_open(target)
    try:
        (met,) = place.act_outside(["end", str(target)])
        if met in _REFUSALS:
            return Found("lsm", "SIGTERM from a program in scope was refused")
        select.select([pidfd], [], [], _ENDED_S)  # the next trial asks for another one
    finally:
        os.close(pidfd)
    if _is_told(place, target):
        return Found("noticed", "SIGTERM got through; the kernel told who sent it", False, place.better())
    raise NotEnforced("SIGTERM got through, and nobody noticed", place.better())


def _is_told(place: Place, target: int) -> bool:
    """Whether the ring tells of a signal to `target`."""
    assert place.kernel is not None
    end = time.monotonic() + _NOTICED_S
    while time.monotonic() < end:
        batch = place.kernel.ring.drain()
        for kind, count, data in batch.runs if batch else ():
            told = decode_run(kind, count, data) if kind == layout.KIND_TAMPER else ()
            if any(isinstance(event, Tamper) and event.target == target for event in told):
                return True
        time.sleep(0.02)
    return False


def tracing(place: Place) -> Found:
    """ptrace and /proc/PID/mem."""
    target, seen = place.responder(), list[str]()
    process = Process(target, "the responder")
    met = place.act_outside(
        ["memory", str(target)], ["trace", str(target)], ["stay", _TRACED_S],
        meanwhile=lambda: seen.extend(one.detail for one in process.look()),
    )  # fmt: skip
    if met[0] in _REFUSALS and met[1] in _REFUSALS:
        return Found("lsm", "ptrace and /proc/PID/mem were refused")
    if any("traced" in one for one in seen):
        return Found("noticed", "ptrace got through; a tracer is found while it stays", False, place.better())
    raise NotEnforced("ptrace or /proc/PID/mem got through, and nobody noticed", place.better())


def pinned(place: Place) -> Found:
    """The pin of a link, whose removal would end a hook."""
    directory = pins.directory_for(place.config, place.cgroup)
    link = pins.link_pin(directory, "mamplus_fork")
    watch = Pins(place.config, directory, place.cgroup)
    try:
        (met,) = place.act_outside(["unlink", str(link)])
        if met in _REFUSALS:
            return Found("lsm", "a pin could not be removed")
        found = watch.look()
    finally:
        watch.close()
    if any(one.is_put_back for one in found) and link.exists():
        return Found(
            "restored", "a pin was removed, noticed, and put back while its hook went on", False, place.better()
        )
    raise NotEnforced("a pin was removed, and not put back", place.better())
