# SPDX-License-Identifier: Apache-2.0
"""One thing that was found changed, and the event that tells it."""

import subprocess

import msgspec

from mamplus_host.events import NO_SLOT, Head, Tamper
from mamplus_host.verdicts import Verdict

_ASK_S = 2.0


class Noticed(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, by a look that saw nobody do it."""

    op: str  # pin, link, map, mount, rules, process, silence
    detail: str  # one clause for people
    target: int = 0  # process of ours, 0: none
    is_put_back: bool = False


def event(noticed: Noticed, boot_ns: int) -> Tamper:
    """Return the event of what was noticed at `boot_ns`, CLOCK_BOOTTIME."""
    head = Head(
        boot_ns=boot_ns, cgroup_id=0, generation=0, tgid=0, ppid=0, uid=0, slot=NO_SLOT, flags=0,
        verdict=Verdict.NOTHING, comm="",
    )  # fmt: skip
    return Tamper(
        head=head, op=noticed.op, target=noticed.target, detail=noticed.detail, is_put_back=noticed.is_put_back
    )


def is_own_claim(one: Tamper, own: int) -> bool:
    """Whether this is the agent itself, taking its place (`layout.TAMPER_CLAIM`)."""
    return one.op == "claim" and one.head.tgid == own


def is_from_init(one: Tamper) -> bool:
    """Whether it is a signal of process 1: the end of the system, or an administrator with systemctl."""
    return one.op == "signal" and one.head.tgid == 1


def is_shutting_down() -> bool:
    """Whether systemd ends the whole system, and us with it; False where there is no systemd to ask."""
    try:
        done = subprocess.run(
            ["systemctl", "is-system-running"], capture_output=True, text=True, timeout=_ASK_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == "stopping"
