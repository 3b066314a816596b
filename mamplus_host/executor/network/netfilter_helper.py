# SPDX-License-Identifier: Apache-2.0
"""Changes iptables in one network namespace and ends: python-iptables stays out of the service.

Journey: netfilter -> [netfilter_helper] -> kernel.

Chains of our own, MAMPLUS-IN and MAMPLUS-OUT, in the filter tables of IPv4 and IPv6. Each
has one rule, `-m bpf --object-pinned PATH -j DROP`, so the list behind it may be of any size.
INPUT and OUTPUT jump to them first. A table is changed in one commit: packets meet the old
state or the new one. Other people's rules are not touched.

    python -m mamplus_host.executor.network.netfilter_helper apply|check --netns NAME|- --in PIN --out PIN
    python -m mamplus_host.executor.network.netfilter_helper remove --netns NAME|-
"""

import argparse
import ctypes
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mamplus_host.errors import MamplusError, NetfilterFailed
from mamplus_host.executor.network import netns
from mamplus_host.executor.network.iptables import iptc

CHAINS = {"INPUT": "MAMPLUS-IN", "OUTPUT": "MAMPLUS-OUT"}
# Shared with iptables-legacy, which asks the same variable: a table is read, changed and written as a whole.
XTABLES_LOCK = os.environ.get("XTABLES_LOCKFILE") or "/run/xtables.lock"
LOCK_S = 20.0  # for which another program may hold it
_LOCK_LOOK_S = 0.05
_PR_SET_PDEATHSIG = 1
# To tell a chain from a target, python-iptables opens every table, and opening creates the table: nat would
# bring connection tracking to every packet of the namespace. So it is told that the others do not exist.
for _family in (iptc.Table, iptc.Table6):
    _family.existing_table_names.update({name: name == "filter" for name in _family.ALL})
_FAMILIES = ((iptc.Table, iptc.Rule, "IPv4"), (iptc.Table6, iptc.Rule6, "IPv6"))


def apply(pins: dict[str, str], *, renew: bool = False) -> None:
    """Make the chains what they should be; `pins` has one path per chain.

    `renew`: there are other programs behind the same paths, so the rules are written anew, in one commit.
    """
    for family, rule_type, _name in _FAMILIES:
        with table_of(family) as table:
            for hook, chain_name in CHAINS.items():
                chain = iptc.Chain(table, chain_name)
                if not table.is_chain(chain_name):
                    table.create_chain(chain_name)
                if renew or _pins_of(chain) != [pins[chain_name]]:
                    chain.flush()
                    chain.append_rule(_drop_by(rule_type, pins[chain_name]))
                _jump_first(rule_type, iptc.Chain(table, hook), chain_name)


def remove() -> None:
    """Leave nothing of ours."""
    for family, _rule_type, _name in _FAMILIES:
        with table_of(family) as table:
            for hook, chain_name in CHAINS.items():
                delete_jumps(iptc.Chain(table, hook), chain_name)
                if table.is_chain(chain_name):
                    table.flush_entries(chain_name)
                    table.delete_chain(chain_name)


def missing(pins: dict[str, str]) -> list[str]:
    """Return what `apply` would change, in words."""
    found = []
    for family, _rule_type, name in _FAMILIES:
        with table_of(family, commits=False) as table:
            for hook, chain_name in CHAINS.items():
                if not table.is_chain(chain_name):
                    found.append(f"{name}: chain {chain_name}")
                elif _pins_of(iptc.Chain(table, chain_name)) != [pins[chain_name]]:
                    found.append(f"{name}: the one rule of {chain_name}")
                if jumps(iptc.Chain(table, hook), chain_name) != [0]:
                    found.append(f"{name}: first jump of {hook} to {chain_name}")
    return found


@contextmanager
def table_of(family: Callable[[str], "iptc.Table"], *, commits: bool = True) -> Iterator["iptc.Table"]:
    """Yield the filter table; what was changed is committed at once at the end, under the lock of iptables."""
    with open(XTABLES_LOCK, "a") as lock:
        _lock(lock.fileno())
        table = family("filter")
        table.autocommit = False
        table.refresh()
        yield table
        if commits:
            table.commit()


def _lock(fd: int) -> None:
    """Take the lock; NetfilterFailed says who has it when it is not to be had within LOCK_S."""
    end_s = time.monotonic() + LOCK_S
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end_s:
                raise NetfilterFailed(
                    f"the lock of iptables, {XTABLES_LOCK!r}, is held by {_holders(fd)} for more than {LOCK_S:g} s"
                ) from None
        time.sleep(_LOCK_LOOK_S)


def _holders(fd: int) -> str:
    """Return in words who holds the lock of an open file."""
    number = os.fstat(fd).st_ino
    with open("/proc/locks", encoding="ascii") as locks:
        fields = [line.split() for line in locks]
    pids = [one[4] for one in fields if len(one) > 5 and one[1] != "->" and one[5].endswith(f":{number}")]
    return f"process {', '.join(pids)}" if pids else "somebody whom /proc/locks does not name"


def _drop_by(rule_type: Callable[[], "iptc.Rule"], pin: str) -> "iptc.Rule":
    rule = rule_type()
    rule.create_match("bpf").set_parameter("object-pinned", pin)
    rule.create_target("DROP")
    return rule


def _pins_of(chain: "iptc.Chain") -> list[str | None]:
    """Return the pinned program of every rule; None for a rule that is not ours."""
    return [_pin_of(rule) for rule in chain.rules]


def _pin_of(rule: "iptc.Rule") -> str | None:
    if len(rule.matches) != 1 or rule.matches[0].name != "bpf" or rule.target.name != "DROP":
        return None
    values = rule.matches[0].get_all_parameters().get("object-pinned", [])
    return values[0] if values else None


def jumps(chain: "iptc.Chain", target: str) -> list[int]:
    """Return the positions, from 0, of the rules of `chain` that jump to `target`."""
    return [at for at, rule in enumerate(chain.rules) if rule.target is not None and rule.target.name == target]


def _jump_first(rule_type: Callable[[], "iptc.Rule"], chain: "iptc.Chain", target: str) -> None:
    if jumps(chain, target) == [0]:
        return
    delete_jumps(chain, target)
    rule = rule_type()
    rule.create_target(target)
    chain.insert_rule(rule, position=0)


def delete_jumps(chain: "iptc.Chain", target: str) -> None:
    for at in reversed(jumps(chain, target)):
        chain.delete_rule(chain.rules[at])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="netfilter_helper", description="Keep our iptables chains in one namespace.")
    parser.add_argument("command", choices=("apply", "remove", "check"))
    parser.add_argument("--netns", default="-", metavar="NAME", help="below /run/netns; -: the caller's own")
    parser.add_argument("--in", dest="in_pin", default="", metavar="PIN")
    parser.add_argument("--out", dest="out_pin", default="", metavar="PIN")
    parser.add_argument("--renew", action="store_true", help="apply: write our rules anew, for new programs")
    return parser


def run(command: str, netns_name: str, pins: dict[str, str], *, renew: bool = False) -> dict[str, list[str]]:
    """Carry out one command; NetfilterFailed says what was refused."""
    where = f"namespace {netns_name!r}"
    if command != "remove" and not all(pins.values()):
        raise NetfilterFailed(f"{command} needs --in PIN and --out PIN")
    try:
        if netns_name != "-":
            netns.enter(netns_name)
        if command == "check":
            return {"missing": missing(pins)}
        apply(pins, renew=renew) if command == "apply" else remove()
    except (OSError, iptc.IPTCError, iptc.xtables.XTablesError) as error:
        raise NetfilterFailed(f"{where}: iptables refused to {command}: {error}") from None
    return {}


def main() -> int:
    args = _parser().parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody wants it once the caller is gone
    pins = {"MAMPLUS-IN": args.in_pin, "MAMPLUS-OUT": args.out_pin}
    try:
        print(json.dumps(run(args.command, args.netns, pins, renew=args.renew)))
    except MamplusError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
