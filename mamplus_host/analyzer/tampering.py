# SPDX-License-Identifier: Apache-2.0
"""Words for what was done to the agent: a value in, a sentence out.

Journey: decide -> [tampering].
"""

import signal

from mamplus_host.events import Tamper
from mamplus_host.kernel import layout
from mamplus_host.verdicts import Severity

_WHAT = {
    "ptrace": "reached for the memory, the descriptors or the threads of pid {target}",
    "map": "reached for map {argument} of the agent",
    "program": "reached for program {argument} of the agent",
    "link": "reached for a hook of the agent (bpf(2) command {argument})",
    "pin": "touched a pin of the agent (inode {argument})",
    "umount": "tried to unmount the bpffs that holds the agent's pins",
    "cgroup": "reached for freeze, kill or the memory limits of a cgroup (id {argument}) that holds the agent",
    "limits": "reached for the limits, the priority or the OOM score of pid {target}",
    "identity": "tried to pass for another program (prctl(2), PR_SET_MM)",
    "tracing": "reached for kernel.ftrace_enabled, which takes every hook of the LSM's away",
    "claim": "took the agent's place, because there was none",
}


def reason_of(event: Tamper) -> str:
    """Return one sentence for people."""
    if event.detail:
        return event.detail + ("; it is as it was" if event.is_put_back else "")
    who = f"{event.head.comm!r} (pid {event.head.tgid}, uid {event.head.uid})"
    if event.op == "signal":
        sender = "the kernel" if event.argument & layout.TAMPER_BY_KERNEL else who
        what = f"sent {_signal(event.argument & ~layout.TAMPER_BY_KERNEL)} to pid {event.target}"
        return f"{sender} {what}{_refused(event)}"
    return f"{who} {_WHAT[event.op].format(target=event.target, argument=event.argument)}{_refused(event)}"


def severity_of(event: Tamper) -> Severity:
    """What was refused, or is as it was, is less than what stands."""
    is_harmless = event.is_put_back or bool(event.head.flags & layout.F_REFUSED) or event.op == "silence"
    return Severity.HIGH if is_harmless else Severity.CRITICAL


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _refused(event: Tamper) -> str:
    return "; it was refused" if event.head.flags & layout.F_REFUSED else ""
