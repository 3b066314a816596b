# SPDX-License-Identifier: Apache-2.0
"""How long rules are gone that somebody flushed, and whether anything got out meanwhile.

    python -m bench.second_layer [--rounds N] [--way NAME]

In network namespaces and a cgroup of its own: the device is isolated by hooks and rules, a program on it tries to
connect and to send without pause, and the tables are flushed, or a firewalld of our own reloads. "Back" is from the
end of that until all rules are there (0: they were before), "gone" the longest time that they were seen not to be.
"""

import argparse
import json
import secrets
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from mamplus_host.clock import DeviceClock
from mamplus_host.config import Config, Paths, Scope, cgroup_dir
from mamplus_host.executor.network.refusals import Network, Refusal
from mamplus_host.executor.network.secondlayer import SecondLayer
from mamplus_host.kernel import responder
from mamplus_host.kernel.objects import Kernel
from tests.kernel import acts, firewalls, networld
from tests.kernel.networld import OTHER4, OTHER6, World

WITHIN_S = 120.0
Begin = Callable[[], Callable[[], bool]]  # returns what says whether it has ended


@contextmanager
def _flush(world: World, command: str) -> Iterator[Begin]:
    def begin() -> Callable[[], bool]:
        subprocess.run(["ip", "netns", "exec", world.netns, "sh", "-c", command], check=True)
        return lambda: True

    yield begin


@contextmanager
def _reload(world: World, backend: firewalls.Backend, words: str) -> Iterator[Begin]:
    with tempfile.TemporaryDirectory() as own, firewalls.firewalld(world.netns, Path(own), backend) as manager:

        def begin() -> Callable[[], bool]:
            manager.begin(words)
            return manager.is_done

        yield begin


WAYS: dict[str, tuple[str, Callable[[World], AbstractContextManager[Begin]]]] = {
    "iptables -F": ("iptables", lambda world: _flush(world, "iptables-legacy -F; iptables-legacy -X")),
    "nft flush": ("nftables", lambda world: _flush(world, "nft flush ruleset")),
    "firewalld on iptables": ("iptables", lambda world: _reload(world, "iptables", "--reload")),
    "firewalld on iptables, complete": ("iptables", lambda world: _reload(world, "iptables", "--complete-reload")),
    "firewalld on nftables": ("nftables", lambda world: _reload(world, "nftables", "--reload")),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--way", choices=list(WAYS), action="append", help="default: all")
    arguments = parser.parse_args()
    with acts.own_cgroup() as cgroup, networld.world() as world, tempfile.TemporaryDirectory() as state:
        config = Config(
            scope=Scope(cgroup=str(cgroup), netns=(world.netns,)),
            paths=Paths(state=state, run=state, bpffs=f"/sys/fs/bpf/mpbench-{secrets.token_hex(4)}"),
        )
        kernel = Kernel.attach(config, cgroup_dir(config))
        try:
            world.enter(cgroup)
            for way in arguments.way or WAYS:
                layer, flushing = WAYS[way]
                with flushing(world) as begin:
                    _measure(config, world, way, layer, begin, arguments.rounds)
        finally:
            world.end()
            kernel.close()
            responder.stop(config)
            Kernel.detach(config)
    return 0


def _measure(config: Config, world: World, way: str, layer: str, begin: Begin, rounds: int) -> None:
    network = Network(config, DeviceClock(config.state))
    network.second = SecondLayer(config, layer=layer)
    network.put(layer, Refusal(kind="isolate"))
    network.second.begin(lambda: None)
    network.enforce()
    whole, back_s, gone_s, met = _settled(world), list[float](), list[float](), list[str]()
    before = world.seen()
    for _round in range(rounds):
        time.sleep(2.0)  # so that the thread has come to rest
        back, gone = _watch(world, begin(), whole, met)
        back_s.append(back)
        gone_s.append(gone)
    got_out = world.seen() != before
    network.drop(layer)
    network.second.stop()
    network.enforce()
    print(
        f"{way}: back after {statistics.median(back_s):.2f} s, {max(back_s):.2f} s at most, n={rounds}; gone for"
        f" {statistics.median(gone_s):.2f} s; {len(met)} tries met {sorted(set(met))};"
        f" {'something' if got_out else 'nothing'} got out"
    )
    print(json.dumps({"way": way, "layer": layer, "back_s": back_s, "gone_s": gone_s, "tries": len(met),
                      "met": sorted(set(met)), "got_out": got_out}), flush=True)  # fmt: skip


def _watch(world: World, is_done: Callable[[], bool], whole: str, met: list[str]) -> tuple[float, float]:
    """Try to get out until the rules are there again; return how long after the end, and for how long they were not."""
    began, ended, gone_since, gone_s = time.monotonic(), 0.0, 0.0, 0.0
    while True:
        ended = ended or (time.monotonic() if is_done() else 0.0)
        is_whole, now = _rules(world) == whole, time.monotonic()
        assert now - began < WITHIN_S, "the rules did not come back"
        if is_whole and gone_since:
            gone_s, gone_since = max(gone_s, now - gone_since), 0.0
        elif not is_whole:
            gone_since = gone_since or now
        if is_whole and ended:
            return (now - ended if gone_s else 0.0), gone_s
        met += [world.act(how, other) for how in ("tcp", "udp") for other in (OTHER4, OTHER6)]


def _settled(world: World) -> str:
    """Return the rules once they have been the same for a while."""
    before = ""
    while True:
        time.sleep(3.0)
        now = _rules(world)
        if now and now == before:
            return now
        before = now


def _rules(world: World) -> str:
    """Return all rules that are ours."""
    legacy = "for one in iptables ip6tables; do $one-legacy-save | grep MAMPLUS-REFUSE; done"
    listed = f"{legacy}; nft list table inet mamplus 2>/dev/null; true"
    done = subprocess.run(
        ["ip", "netns", "exec", world.netns, "sh", "-c", listed], check=True, capture_output=True, text=True
    )
    return "\n".join(line for line in done.stdout.splitlines() if line[:1] != ":")


if __name__ == "__main__":
    raise SystemExit(main())
