# SPDX-License-Identifier: Apache-2.0
"""Keeps the rules of the second layer in one network namespace, and ends: python-iptables stays out of the service.

Journey: secondlayer -> [netrules_helper] -> kernel.

Chains of our own, MAMPLUS-REFUSE-IN, -OUT and -FWD, in the filter tables of iptables-legacy, IPv4 and IPv6, jumped to
right after the list's (netfilter_helper.py). Where the kernel has no such tables: the table `inet mamplus` of
nftables. Both are changed in one commit, and what is other people's is not touched.

    python -m mamplus_host.executor.network.netrules_helper COMMAND --netns NAME|- [--layer best|iptables|nftables]

COMMAND `ensure` reads netrules.Rules as JSON from stdin, and prints {"layer": ..., "changed": ...}; or `remove`.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import msgspec

from mamplus_host.errors import MamplusError, NetfilterFailed
from mamplus_host.executor.network import netns
from mamplus_host.executor.network.netrules import DIRECTIONS, Direction, Rule, Rules

CHAINS: dict[Direction, str] = {"in": "MAMPLUS-REFUSE-IN", "out": "MAMPLUS-REFUSE-OUT", "forward": "MAMPLUS-REFUSE-FWD"}
_HOOKS: dict[Direction, str] = {"in": "INPUT", "out": "OUTPUT", "forward": "FORWARD"}
_NFT_HOOKS: dict[Direction, str] = {"in": "input", "out": "output", "forward": "forward"}
NFT_TABLE = "mamplus"
_NFT_PRIORITY = -310  # before whatever else filters: -300 is where raw begins


class Legacy:
    """The filter tables of iptables-legacy. NetfilterFailed when the kernel has none of them."""

    name = "iptables"

    def __init__(self) -> None:
        try:
            from mamplus_host.executor.network import netfilter_helper as tables
            from mamplus_host.executor.network.iptables import iptc
        except (ImportError, OSError) as error:
            raise NetfilterFailed(f"python-iptables does not load: {error}") from None
        self._iptc, self._tables = iptc, tables
        for family in (iptc.Table, iptc.Table6):
            try:
                family("filter")
            except iptc.IPTCError as error:
                raise NetfilterFailed(f"this kernel has no table of iptables-legacy: {error}") from None

    def ensure(self, rules: Rules) -> bool:
        """Make the chains what `rules` say; False when they were that already."""
        found = [self._ensure(family, make, version, rules) for family, make, version in self._families()]
        return any(found)

    def remove(self) -> None:
        """Leave nothing of ours."""
        iptc = self._iptc
        for family, _make, _version in self._families():
            if not self._is_there(family):
                continue
            with self._tables.table_of(family) as table:
                for direction, name in CHAINS.items():
                    self._tables.delete_jumps(iptc.Chain(table, _HOOKS[direction]), name)
                    if table.is_chain(name):
                        table.flush_entries(name)
                        table.delete_chain(name)

    def _families(self) -> tuple[tuple[Any, Any, int], ...]:
        iptc = self._iptc
        return ((iptc.Table, iptc.Rule, 4), (iptc.Table6, iptc.Rule6, 6))

    def _is_there(self, family: Any) -> bool:
        with self._tables.table_of(family, commits=False) as table:
            jumped = [self._jumps(table, direction) for direction in DIRECTIONS]
            return any(jumped) or any(table.is_chain(name) for name in CHAINS.values())

    def _jumps(self, table: Any, direction: Direction) -> list[int]:
        found: list[int] = self._tables.jumps(self._iptc.Chain(table, _HOOKS[direction]), CHAINS[direction])
        return found

    def _ensure(self, family: Any, make: Any, version: int, rules: Rules) -> bool:
        wanted = {
            direction: [made for rule in listed for made in self._both(make, direction, version, rule)]
            for direction, listed in rules.of(version).items()
        }
        with self._tables.table_of(family, commits=False) as table:
            if all(self._stands(table, direction, made) for direction, made in wanted.items()):
                return False
            for direction, made in wanted.items():
                self._put(table, direction, made, make)
            table.commit()
        return True

    def _stands(self, table: Any, direction: Direction, made: list[Any]) -> bool:
        name = CHAINS[direction]
        if not table.is_chain(name) or self._jumps(table, direction) != [self._place(table, direction)]:
            return False
        return [_text(rule) for rule in self._iptc.Chain(table, name).rules] == [_text(rule) for rule in made]

    def _place(self, table: Any, direction: Direction) -> int:
        """Return where our jump belongs: behind the list's, which has to be the first one."""
        chain = self._iptc.Chain(table, _HOOKS[direction])
        listed = self._tables.CHAINS.get(_HOOKS[direction])
        return 1 if listed and self._tables.jumps(chain, listed)[:1] == [0] else 0

    def _put(self, table: Any, direction: Direction, made: list[Any], make: Any) -> None:
        name, hook = CHAINS[direction], self._iptc.Chain(table, _HOOKS[direction])
        if not table.is_chain(name):
            table.create_chain(name)
        chain = self._iptc.Chain(table, name)
        chain.flush()
        for rule in made:
            chain.append_rule(rule)
        self._tables.delete_jumps(hook, name)
        jump = make()
        jump.create_target(name)
        hook.insert_rule(jump, position=self._place(table, direction))

    def _both(self, make: Any, direction: Direction, version: int, rule: Rule) -> list[Any]:
        """Return one rule, or two where a forwarded packet's source or destination may be meant."""
        sides = ("src", "dst") if direction == "forward" and rule.address else ("",)
        return [self._made(make, direction, version, rule, side) for side in sides]

    def _made(self, make: Any, direction: Direction, version: int, rule: Rule, side: str) -> Any:
        made = make()
        if rule.is_loopback:
            setattr(made, "in_interface" if direction == "in" else "out_interface", "lo")
        if rule.address:
            setattr(made, side or ("src" if direction == "in" else "dst"), rule.address)
        if rule.protocol:
            made.protocol = rule.protocol
            port = made.create_match(rule.protocol)
            setattr(port, "sport" if direction == "in" else "dport", str(rule.port))
        if rule.icmp >= 0:
            made.protocol = "icmp" if version == 4 else "icmpv6"
            match = made.create_match("icmp" if version == 4 else "icmp6")
            match.set_parameter("icmp-type" if version == 4 else "icmpv6-type", str(rule.icmp))
        if rule.below_uid:
            made.create_match("owner").set_parameter("uid-owner", f"0-{rule.below_uid - 1}")
        if rule.until_s:
            at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(rule.until_s))
            made.create_match("time").set_parameter("datestop", at)
        made.create_target("RETURN" if rule.is_pass else "DROP")
        return made


class Nft:
    """A table of our own in nftables, through nft(8)."""

    name = "nftables"

    def ensure(self, rules: Rules) -> bool:
        """Make the table what `rules` say; False when it was that already."""
        before, wanted = self._listed(), nft_text(rules)
        if before == self._as_listed(wanted):
            return False
        _nft("-f", "-", text=f"add table inet {NFT_TABLE}\ndelete table inet {NFT_TABLE}\n{wanted}")
        return True

    def remove(self) -> None:
        """Leave nothing of ours."""
        if self._listed():
            _nft("-f", "-", text=f"delete table inet {NFT_TABLE}\n")

    def _listed(self) -> str:
        """Return the table as nft tells it, "" when there is none."""
        try:
            return _nft("-n", "-n", "-s", "list", "table", "inet", NFT_TABLE)
        except NetfilterFailed:
            return ""

    def _as_listed(self, text: str) -> str:
        """Return how nft would tell `text` if it were in force: made in a namespace of its own, and listed there."""
        own = ["unshare", "--net", "sh", "-c", f"nft -f - && nft -n -n -s list table inet {NFT_TABLE}"]
        return _run(own, text)


def nft_text(rules: Rules) -> str:
    """Return `rules` as nft reads them."""
    lines = [f"table inet {NFT_TABLE} {{"]
    for direction in DIRECTIONS:
        hook = f"type filter hook {_NFT_HOOKS[direction]} priority {_NFT_PRIORITY}; policy accept;"
        lines += [f"\tchain {direction} {{", f"\t\t{hook}"]
        for version in (4, 6):
            listed = rules.of(version).get(direction, [])
            lines += [f"\t\t{line}" for rule in listed for line in _nft_rules(direction, version, rule)]
        lines += ["\t}"]
    return "\n".join([*lines, "}", ""])


def _nft_rules(direction: Direction, version: int, rule: Rule) -> list[str]:
    """Return the lines of one rule: two where a forwarded packet's source or destination may be meant."""
    sides = ("saddr", "daddr") if direction == "forward" else ("saddr",) if direction == "in" else ("daddr",)
    return [_nft_rule(direction, version, rule, side) for side in (sides if rule.address else sides[:1])]


def _nft_rule(direction: Direction, version: int, rule: Rule, side: str) -> str:
    words = [f"meta nfproto ipv{version}"]
    if rule.is_loopback:
        words.append('iifname "lo"' if direction == "in" else 'oifname "lo"')
    if rule.address:
        words.append(f"{'ip' if version == 4 else 'ip6'} {side} {rule.address}")
    if rule.protocol:
        words.append(f"{rule.protocol} {'sport' if direction == 'in' else 'dport'} {rule.port}")
    if rule.icmp >= 0:
        words.append(f"{'icmp' if version == 4 else 'icmpv6'} type {rule.icmp}")
    if rule.below_uid:
        words.append(f"meta skuid < {rule.below_uid}")
    if rule.until_s:
        words.append(f"meta time < {rule.until_s}")
    return " ".join([*words, "accept" if rule.is_pass else "drop"])


def _text(rule: Any) -> str:
    """Return what makes two rules of iptables the same."""
    matches = sorted((match.name, sorted(match.get_all_parameters().items())) for match in rule.matches)
    fields = (rule.src, rule.dst, rule.protocol, rule.in_interface, rule.out_interface)
    return repr((fields, matches, rule.target.name if rule.target else None))


def _nft(*arguments: str, text: str = "") -> str:
    return _run(["nft", *arguments], text)


def _run(command: list[str], text: str) -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetfilterFailed(f"nft does not run: {error}; install nftables") from None
    if done.returncode:
        raise NetfilterFailed(f"nft refused: {done.stderr.strip()[:400]}")
    return done.stdout


def layer(name: str) -> Legacy | Nft:
    """Return the layer of that name; "best": what this kernel has, found by trying."""
    if name == Nft.name:
        return Nft()
    try:
        return Legacy()
    except NetfilterFailed:
        if name == "best":
            return Nft()
        raise


def run(command: str, netns_name: str, wanted: str, rules: Rules) -> dict[str, Any]:
    """Carry out one command; NetfilterFailed says what was refused."""
    try:
        if netns_name != "-":
            netns.enter(netns_name)
        chosen = layer(wanted)
        if command == "remove" or rules.is_empty:
            chosen.remove()
            return {"layer": chosen.name, "changed": True}
        return {"layer": chosen.name, "changed": chosen.ensure(rules)}
    except MamplusError:
        raise
    except Exception as error:  # python-iptables raises what it likes; the service needs a sentence
        raise NetfilterFailed(f"namespace {netns_name!r}: cannot {command} the rules of refusals: {error}") from None


def main() -> int:
    parser = argparse.ArgumentParser(prog="netrules_helper", description="Keep the second layer in one namespace.")
    parser.add_argument("command", choices=("ensure", "remove"))
    parser.add_argument("--netns", default="-", metavar="NAME", help="below /run/netns; -: the caller's own")
    parser.add_argument("--layer", default="best", choices=("best", Legacy.name, Nft.name))
    args = parser.parse_args()
    rules = msgspec.json.decode(sys.stdin.buffer.read() or b"{}", type=Rules) if args.command == "ensure" else Rules()
    try:
        print(json.dumps(run(args.command, args.netns, args.layer, rules)))
    except MamplusError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
