# SPDX-License-Identifier: Apache-2.0
"""What this kernel lets us do, found by trying and never by its version.

Programs and maps are tried by the loader (`mamplus-loader --probe`), which loads the smallest
of each kind and ends; nothing is attached and nothing stays.
"""

import os
import subprocess
from pathlib import Path

import msgspec

from mamplus_host.config import CGROUP2_MOUNTS
from mamplus_host.kernel import pins

YES = "yes"
_PROBE_TIMEOUT_S = 60
_UNASKED = "no: the loader did not answer"


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """Each field is "yes", or "no: " and what was in the way."""

    root: str
    btf: str  # without it bcc loads the exec probes, with the kernel's headers
    cgroup2: str
    bpffs: str
    exec_tracepoint: str
    cgroup_connect: str
    cgroup_sendmsg: str
    cgroup_skb: str
    socket_filter: str  # what an iptables rule with xt_bpf runs
    signal_other: str  # SIGKILL to a held program that somebody else lets go on
    lsm: str  # refuses with an error instead of SIGKILL: a program was loaded, attached and called
    fentry: str
    ring_buffer: str
    lru_hash: str
    lpm_trie: str
    mappable_array: str
    optional: dict[str, str]  # object of kernel_probes/bpf -> the same, of the whole object


_PROBED = Features.__struct_fields__[4:-1]  # what the loader answers


def lsm() -> str:
    """Return `Features.lsm` alone, without trying whole objects."""
    return _ask_loader("--probe").get("lsm", _UNASKED)


def probe() -> Features:
    """Try everything, whole objects too: seconds on a slow device. Without root most answers are "no"."""
    bpf = _ask_loader("--probe")
    return Features(
        root=_said(os.geteuid() == 0, "the process runs as another user"),
        btf=_said(pins.has_btf(), f"{pins.BTF} is missing"),
        cgroup2=_said(any(Path(m, "cgroup.controllers").exists() for m in CGROUP2_MOUNTS), "no cgroup v2 is mounted"),
        bpffs=_said("\tbpf\n" in Path("/proc/filesystems").read_text(), "the kernel has no bpffs"),
        **{name: bpf.get(name, _UNASKED) for name in _PROBED},
        optional=_ask_loader("--try", *map(str, (*pins.OPTIONAL_OBJECTS, pins.FILES_OBJECT))),
    )


def _said(claim: bool, why_not: str) -> str:
    return YES if claim else f"no: {why_not}"


def _ask_loader(*words: str) -> dict[str, str]:
    """Return feature or object -> "yes" or "no: reason", as the loader found."""
    try:
        done = subprocess.run(
            [pins.LOADER, *words], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found = {}
    for line in done.stdout.splitlines():
        name, answer, *reason = line.split(" ", 2)
        found[name.replace("-", "_")] = _said(answer == YES, " ".join(reason))
    return found
