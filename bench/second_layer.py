# SPDX-License-Identifier: Apache-2.0
"""How long rules are gone that somebody flushed, and whether anything got out meanwhile.

    python -m bench.second_layer [--rounds N]

In network namespaces and a cgroup of its own: the device is isolated by hooks and rules, a program on it tries to
connect and to send without pause, and the tables are flushed. Time is from the flushing program's end until all
rules are there again.
"""

import argparse
import json
import re
import secrets
import statistics
import subprocess
import tempfile
import time

from mamplus_host.clock import DeviceClock
from mamplus_host.config import Config, Paths, Scope, cgroup_dir
from mamplus_host.executor.network import Network, Refusal
from mamplus_host.executor.secondlayer import SecondLayer
from mamplus_host.kernel import responder
from mamplus_host.kernel.objects import Kernel
from tests.kernel import acts, networld
from tests.kernel.networld import OTHER4, OTHER6

FLUSHES = {"iptables": "iptables-legacy -F; iptables-legacy -X", "nftables": "nft flush ruleset"}
WITHIN_S = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    with acts.own_cgroup() as cgroup, networld.world() as world, tempfile.TemporaryDirectory() as state:
        config = Config(
            scope=Scope(cgroup=str(cgroup), netns=(world.netns,)),
            paths=Paths(state=state, run=state, bpffs=f"/sys/fs/bpf/mpbench-{secrets.token_hex(4)}"),
        )
        kernel = Kernel.attach(config, cgroup_dir(config))
        try:
            world.enter(cgroup)
            for layer, flush in FLUSHES.items():
                _measure(config, world, layer, flush, rounds)
        finally:
            world.end()
            kernel.close()
            responder.stop(config)
            Kernel.detach(config)
    return 0


def _measure(config: Config, world: networld.World, layer: str, flush: str, rounds: int) -> None:
    network = Network(config, DeviceClock(config.state))
    network.second = SecondLayer(config, layer=layer)
    network.put(layer, Refusal(kind="isolate"))
    network.second.begin(lambda: None)
    network.enforce()
    whole, took_s, tries, met = _settled(world), [], 0, set[str]()
    before = world.seen()
    for _round in range(rounds):
        time.sleep(2.0)  # so that the thread has come to rest
        subprocess.run(["ip", "netns", "exec", world.netns, "sh", "-c", flush], check=True)
        began = time.monotonic()
        while _rules(world) != whole:
            assert time.monotonic() - began < WITHIN_S, "the rules did not come back"
            met |= {world.act(how, other) for how in ("tcp", "udp") for other in (OTHER4, OTHER6)}
            tries += 4
        took_s.append(time.monotonic() - began)
    got_out = world.seen() != before
    network.drop(layer)
    network.second.stop()
    network.enforce()
    median_s, most_s = statistics.median(took_s), max(took_s)
    print(
        f"{layer}: back after {median_s:.2f} s, {most_s:.2f} s at most, n={rounds}; {tries} tries met {sorted(met)}",
        end="; ",
    )
    print("something got out" if got_out else "nothing got out")
    print(json.dumps({"layer": layer, "back_s": took_s, "tries": tries, "met": sorted(met), "got_out": got_out}))


def _settled(world: networld.World) -> str:
    """Return the rules once they have been the same for a while."""
    before = ""
    while True:
        time.sleep(3.0)
        now = _rules(world)
        if now == before and "REFUSE" in now + ("REFUSE" if "inet mamplus" in now else ""):
            return now
        before = now


def _rules(world: networld.World) -> str:
    listed = ["iptables-legacy-save", "ip6tables-legacy-save", "nft list ruleset"]
    done = subprocess.run(
        ["ip", "netns", "exec", world.netns, "sh", "-c", "; ".join(listed)], check=True, capture_output=True, text=True
    )
    return re.sub(r"\[\d+:\d+\]|^#.*$", "", done.stdout, flags=re.MULTILINE)


if __name__ == "__main__":
    raise SystemExit(main())
