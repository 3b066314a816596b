# SPDX-License-Identifier: Apache-2.0
"""Trials of self-protection, against a program that stands in for the agent, and the pins of the trials."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from mamplus_host.doctor.place import EACCES, EPERM, Place
from mamplus_host.doctor.trial import Found, NotEnforced
from mamplus_host.kernel import pins

_REFUSALS = (EPERM, EACCES)


@contextmanager
def _stand_in() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def signals(place: Place) -> Found:
    """SIGTERM from a program in scope, as root."""
    with _stand_in() as agent:
        (met,) = place.act(["end", str(agent.pid)])
        if met not in _REFUSALS:
            raise NotEnforced("a program in scope could end what stands for the agent", place.better())
    return Found("lsm", "a signal from a program in scope was refused")


def tracing(place: Place) -> Found:
    """ptrace and /proc/PID/mem."""
    with _stand_in() as agent:
        met = place.act(["memory", str(agent.pid)], ["trace", str(agent.pid)])
    if any(one not in _REFUSALS for one in met):
        raise NotEnforced("a program in scope could trace, or write to, what stands for the agent", place.better())
    return Found("lsm", "ptrace and /proc/PID/mem were refused")


def pinned(place: Place) -> Found:
    """The pin of a link, whose removal would end a hook."""
    link = pins.link_pin(pins.directory_for(place.config, place.cgroup), "mamplus_fork")
    moved = link.with_name("moved")  # bpffs itself refuses names with a dot
    (met,) = place.act(["rename", str(link), str(moved)])
    if moved.exists():
        moved.rename(link)
    if met not in _REFUSALS:
        raise NotEnforced("a program in scope could move a pin away", place.better())
    return Found("lsm", "a pin could not be moved away")
