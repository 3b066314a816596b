# SPDX-License-Identifier: Apache-2.0
"""Keeps our two iptables chains in every namespace of the scope, through a short-lived helper.

Journey: service -> [netfilter] -> netfilter_helper -> kernel.

A rule names a pinned program by its path. iptables writes a table as a whole and the kernel
then opens every such path again: while a rule exists whose pin is gone, nobody can change
the table any more. So: pin, then `apply`; `remove`, then unpin.
"""

from pathlib import Path
from typing import Any

import msgspec

from mamplus_host.config import Config
from mamplus_host.errors import NetfilterFailed
from mamplus_host.executor import helper

HELPER_S = 60.0  # for one namespace: the lock of iptables may be another program's for a while, and the device slow
OWN = "-"  # the agent's own network namespace


def apply(config: Config, in_pin: Path, out_pin: Path, *, renew: bool = False) -> None:
    """Make the chains what they should be, in all namespaces; may be repeated.

    `renew`: other programs lie behind the pins than when the rules were made.
    `in_pin`, `out_pin`: pinned socket filters; a packet for which one returns nonzero is dropped.
    """
    for name in config.scope.netns or (OWN,):
        _run("apply", name, "--in", str(in_pin), "--out", str(out_pin), *(["--renew"] if renew else []))


def remove(config: Config) -> None:
    """Leave nothing of ours, in all namespaces; may be repeated. A namespace that is gone is clean."""
    for name in config.scope.netns or (OWN,):
        if name == OWN or Path("/run/netns", name).exists():
            _run("remove", name)


def check(config: Config, in_pin: Path, out_pin: Path) -> dict[str, list[str]]:
    """Return what is missing, by namespace; an empty list where everything is in place."""
    found = {}
    for name in config.scope.netns or (OWN,):
        answer = _run("check", name, "--in", str(in_pin), "--out", str(out_pin))
        found[name] = [str(one) for one in answer["missing"]]
    return found


def _run(command: str, netns: str, *more: str) -> dict[str, Any]:
    """Run the helper; NetfilterFailed with its own words when it does not succeed."""
    late = f"iptables in namespace {netns!r} took more than {HELPER_S:g} s; see who holds its lock"
    words = (command, "--netns", netns, *more)
    said = helper.run("network.netfilter_helper", *words, within_s=HELPER_S, late=late, failed=NetfilterFailed)
    answer: dict[str, Any] = msgspec.json.decode(said or b"{}")
    return answer
