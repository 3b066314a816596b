# SPDX-License-Identifier: Apache-2.0
"""The trial of what holds a suspect."""

import os
import subprocess

from mamplus_host.clock import SystemClock
from mamplus_host.doctor.place import Place
from mamplus_host.doctor.trial import Found
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.processes.process import Processes


def freezer(place: Place) -> Found:
    """A program is stopped where it is, and let go."""
    process = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL)
    try:
        (place.cgroup / "cgroup.procs").write_text(str(process.pid))
        processes = Processes(place.cgroup, place.mount, GuardSet.of_pids({os.getpid()}))
        hold = processes.where(process.pid, SystemClock().boot_ns(), "doctor")
        processes.freeze(hold)
        processes.thaw(hold)
    finally:
        process.kill()
        process.wait()
    return Found("freezer", "a program was frozen and thawed")
