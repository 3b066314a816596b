# SPDX-License-Identifier: Apache-2.0
"""Rules of iptables and nftables beside the hooks: they come back, leave nothing, and nothing gets out meanwhile."""

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from mamplus_host.clock import DeviceClock
from mamplus_host.config import Agent as AgentConfig
from mamplus_host.config import Config, Paths, Scope
from mamplus_host.executor.actions.isolate import Isolate
from mamplus_host.executor.actions.refuse import Refuse, refusal_of
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.network.netrules_helper import CHAINS
from mamplus_host.executor.network.refusals import Network, Refusal
from mamplus_host.executor.network.secondlayer import SecondLayer, _Waiter
from mamplus_host.executor.processes.process import Processes

from . import acts, firewalls, networld
from .conftest import Agent
from .networld import DNS, ENTERPRISE, HOST4, HOST6, OTHER4, OTHER6, World

pytestmark = pytest.mark.kernel
BACK_WITHIN_S = 60.0  # on a machine that does much else; how long it takes is what bench/second_layer.py measures
SAVES = ("iptables-legacy-save", "ip6tables-legacy-save")
LAYERS = pytest.mark.parametrize("layer", ["iptables", "nftables"])
_REPLACED = "printf '*filter\\n:INPUT ACCEPT\\n:OUTPUT ACCEPT\\nCOMMIT\\n' | iptables-legacy-restore"
FLUSHES = [
    ("iptables", "iptables-legacy -F"),
    ("iptables", "iptables-legacy -F OUTPUT"),
    ("iptables", "iptables-legacy -F; iptables-legacy -X; ip6tables-legacy -F; ip6tables-legacy -X"),
    ("iptables", _REPLACED),
    ("nftables", "nft flush ruleset"),
    ("nftables", "nft delete table inet mamplus"),
    ("nftables", "nft flush chain inet mamplus out"),
]


@pytest.fixture
def world() -> Iterator[World]:
    with networld.world() as made:
        yield made


@pytest.fixture
def quiet() -> Iterator[str]:
    """A namespace in which nothing is sent: the counters of policies are in what iptables-save prints."""
    with acts.own_netns() as name:
        yield name


def inside(netns: str, *command: str) -> str:
    done = subprocess.run(["ip", "netns", "exec", netns, *command], check=True, capture_output=True, text=True)
    return done.stdout


def rules_of(netns: str) -> str:
    """Return every rule of the namespace, without dates."""
    legacy = "".join(inside(netns, program) for program in SAVES)
    return "\n".join(line for line in legacy.splitlines() if line[:1] != "#") + inside(netns, "nft", "list", "ruleset")


def config_for(netns: str, tmp_path: Path, cgroup: Path) -> Config:
    """A configuration without hooks: what is left are the rules."""
    paths = Paths(state=str(tmp_path / "state"), run=str(tmp_path), bpffs=str(tmp_path / "no-pins"))
    return Config(scope=Scope(cgroup=str(cgroup), netns=(netns,)), paths=paths)


def network_of(config: Config, layer: str) -> Network:
    config.state.mkdir(exist_ok=True)
    network = Network(config, DeviceClock(config.state))
    network.second = SecondLayer(config, layer=layer)
    return network


def has_layer(netns: str, layer: str) -> bool:
    if layer == "nftables":
        return "table inet mamplus {" in inside(netns, "nft", "list", "ruleset")
    chains = [f"-j {name}" for name in CHAINS.values()]
    return all(one in inside(netns, save) for one in chains for save in SAVES)


@LAYERS
def test_the_rules_alone_leave_the_lifeline_and_nothing_else(
    world: World, tmp_path: Path, cgroup: Path, layer: str
) -> None:
    network = network_of(config_for(world.netns, tmp_path, cgroup), layer)
    isolate = Isolate(network)
    world.act("tcp", OTHER4)

    network.put("an-action", _refusal(isolate))
    network.enforce()

    assert network.second.fault == ""
    for other in (OTHER4, OTHER6):
        assert world.act("udp", other, DNS) == "ok"
        assert world.act("udp", other, DNS, uid=1000) in ("EPERM", "silent")
        assert world.act("tcp", other) in ("EPERM", "silent")
        assert world.act("udp", other) in ("EPERM", "silent")
    assert world.act("say", OTHER4) in ("EPERM", "silent")
    assert world.act("udp", "127.0.0.1") in ("ECONNREFUSED", "silent")
    network.drop("an-action")
    network.enforce()
    assert world.act("tcp", OTHER6) == "ok"


class _Wrong(DeviceClock):
    """A clock that was years behind when the device started, until it is set."""

    behind_s = 10 * 365 * 86_400.0

    def wall_s(self) -> float:
        return super().wall_s() - self.behind_s


@LAYERS
def test_rules_that_were_made_before_the_clock_was_set_refuse_once_it_is(
    world: World, tmp_path: Path, cgroup: Path, layer: str
) -> None:
    config = config_for(world.netns, tmp_path, cgroup)
    config.state.mkdir()
    network = Network(config, clock := _Wrong(config.state))
    network.second = SecondLayer(config, layer=layer)
    network.put("an-action", Refusal(kind="host", what=OTHER4, ttl_s=3600))
    network.enforce()
    assert network.second.fault == ""
    assert world.act("tcp", OTHER4) == "ok", "by the kernel's clock its time is over"

    clock.behind_s = 0.0
    network.tick()

    assert world.act("tcp", OTHER4) in ("EPERM", "silent")


@LAYERS
def test_after_the_undo_every_rule_is_byte_for_byte_as_before(
    quiet: str, tmp_path: Path, cgroup: Path, layer: str
) -> None:
    for tool in ("iptables-legacy", "ip6tables-legacy", "iptables"):
        inside(quiet, tool, "-A", "OUTPUT", "-p", "tcp", "--dport", "9", "-j", "ACCEPT")
    before = rules_of(quiet)
    config = config_for(quiet, tmp_path, cgroup)
    network = network_of(config, layer)
    guarded = GuardSet.of_pids([])
    refuse = Refuse(network, Processes.of(config, guarded), guarded)
    network.put("host", _refusal(refuse, address=HOST4))
    network.put("other", _refusal(refuse, address=HOST6, ttl_s=3600))
    network.put("isolation", _refusal(Isolate(network), ttl_s=7200))
    network.enforce()
    assert rules_of(quiet) != before

    for name in ("isolation", "host", "other"):
        network.drop(name)
        network.enforce()

    assert rules_of(quiet) == before
    assert network.second.fault == ""


class Isolated(NamedTuple):
    """A namespace that an agent has isolated."""

    netns: str
    config: Config
    before: str  # its rules


@pytest.fixture
def isolated(quiet: str, tmp_path: Path, cgroup: Path) -> Isolated:
    inside(quiet, "iptables-legacy", "-S")
    inside(quiet, "ip6tables-legacy", "-S")
    before = rules_of(quiet)
    config = config_for(quiet, tmp_path, cgroup)
    network = network_of(config, "best")
    network.put("isolation", _refusal(Isolate(network)))
    network.enforce()
    assert rules_of(quiet) != before
    return Isolated(quiet, config, before)


def test_rules_that_an_agent_before_left_are_taken_away_by_the_next_one(isolated: Isolated) -> None:
    (isolated.config.state / "network.json").unlink()  # the power went between the file and the rules

    network_of(isolated.config, "best").enforce()

    assert rules_of(isolated.netns) == isolated.before


@pytest.mark.parametrize(("layer", "flush"), FLUSHES)
def test_while_rules_are_flushed_nothing_gets_out_and_they_come_back(
    world: World, attach: Callable[..., Agent], cgroup: Path, layer: str, flush: str
) -> None:
    agent = attach(scope={"cgroup": str(cgroup), "netns": [world.netns]})
    agent.kernel.tables.set_guard([(HOST4, ENTERPRISE)])
    network = network_of(agent.config, layer)
    network.put("isolation", _refusal(Isolate(network)))
    noticed: list[float] = []
    network.second.begin(lambda: noticed.append(time.monotonic()))
    try:
        world.enter(cgroup)
        network.enforce()
        _await(lambda: has_layer(world.netns, layer))
        whole = _without_counters(rules_of(world.netns))
        before = world.seen()

        inside(world.netns, "sh", "-c", flush)
        met = _try_until(world, lambda: _without_counters(rules_of(world.netns)) == whole)

        assert met == {"EPERM"}
        assert world.seen() == before
        assert world.act("tcp", HOST4, ENTERPRISE) == "ok"
        _await(lambda: bool(noticed))
    finally:
        network.second.stop()
        world.end()


# ufw with a configuration of its own; the second word says which iptables it finds.
_UFW = """
set -e
mount --make-rprivate /
for place in /etc/ufw /etc/default; do
    mkdir -p "$1$place"; cp -a "$place/." "$1$place/"; mount --bind "$1$place" "$place"
done
[ "$2" = nft ] || mount --bind /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi
ufw --force enable; ufw allow out 443/tcp; ufw reload; /lib/ufw/ufw-init flush-all; ufw reload
"""


@pytest.mark.parametrize("kind", ["nft", "legacy"])
def test_a_firewall_manager_that_reloads_opens_nothing_and_our_rules_come_back(
    world: World, attach: Callable[..., Agent], cgroup: Path, tmp_path: Path, kind: str
) -> None:
    assert shutil.which("ufw"), "install ufw: packaging/debian-packages.txt"
    agent = attach(scope={"cgroup": str(cgroup), "netns": [world.netns]})
    network = network_of(agent.config, "best")
    network.put("isolation", _refusal(Isolate(network)))
    network.second.begin(lambda: None)
    try:
        world.enter(cgroup)
        network.enforce()
        _await(lambda: has_layer(world.netns, "iptables"))
        before = world.seen()

        ufw = ["unshare", "-m", "ip", "netns", "exec", world.netns, "bash", "-c", _UFW, "ufw", str(tmp_path), kind]
        with subprocess.Popen(ufw, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as reloading:
            met = _try_until(world, lambda: reloading.poll() is not None)
            said = reloading.stdout.read() if reloading.stdout else ""
        met |= _try_until(world, lambda: has_layer(world.netns, "iptables"))

        assert "Firewall reloaded" in said
        assert reloading.returncode == 0, said
        assert met == {"EPERM"}
        assert world.seen() == before
    finally:
        network.second.stop()
        world.end()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("backend", "layer"), [("nftables", "nftables"), ("iptables", "iptables")])
def test_a_firewalld_that_reloads_opens_nothing_and_our_rules_come_back(
    world: World, attach: Callable[..., Agent], cgroup: Path, tmp_path: Path, backend: firewalls.Backend, layer: str
) -> None:
    assert firewalls.UNPACKED.is_dir(), "packaging/provision unpacks firewalld"
    agent = attach(scope={"cgroup": str(cgroup), "netns": [world.netns]})
    agent.kernel.tables.set_guard([(HOST4, ENTERPRISE)])
    network = network_of(agent.config, layer)
    network.put("isolation", _refusal(Isolate(network)))
    network.second.begin(lambda: None)
    try:
        world.enter(cgroup)
        network.enforce()
        with firewalls.firewalld(world.netns, tmp_path, backend) as manager:
            _await(lambda: has_layer(world.netns, layer))
            before = world.seen()
            for words in ("--reload", "--complete-reload"):
                renewed = network.second.renewed
                manager.begin(words)
                met = _try_until(world, manager.is_done)
                met |= _try_until(world, lambda: has_layer(world.netns, layer))
                assert met == {"EPERM"}, words
                if backend == "iptables":  # which flushes what others made, too
                    _await(lambda renewed=renewed: network.second.renewed > renewed)  # type: ignore[misc]

            assert world.seen() == before
            _await(lambda: world.act("tcp", HOST4, ENTERPRISE) == "ok")
    finally:
        network.second.stop()
        world.end()


def _refusal(deed: Isolate | Refuse, **target: object) -> Refusal:
    return refusal_of(deed.prepare("an-action", target))


def _without_counters(rules: str) -> str:
    """Return rules without how often a chain's policy was used, and without tables that were opened and are empty."""
    return re.sub(r"\*\w+\n(:\w+ ACCEPT \n)+COMMIT\n?", "", re.sub(r"\[\d+:\d+\]", "", rules))


def _await(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + BACK_WITHIN_S
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.05)


def _try_until(world: World, is_so: Callable[[], bool]) -> set[str]:
    """Try to get out, over and over, until `is_so`; return what came of it."""
    met: set[str] = set()
    until = time.monotonic() + BACK_WITHIN_S
    while not met or not is_so():
        assert time.monotonic() < until, f"the rules did not come back; met {met}"
        for _again in range(50):
            met |= {world.act(how, other) for how in ("tcp", "udp") for other in (OTHER4, OTHER6)}
    return met


def test_whatever_goes_wrong_the_thread_goes_on_looking(
    quiet: str, tmp_path: Path, cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = network_of(config_for(quiet, tmp_path, cgroup), "best").second
    turns = threading.Semaphore(0)

    def fail(self: _Waiter) -> None:
        self._read()
        turns.release()
        raise ValueError("no answer of the helper")

    monkeypatch.setattr(_Waiter, "_turn", fail)
    layer.begin(lambda: None)
    try:
        for _ in range(2):
            layer.poke()
            assert turns.acquire(timeout=BACK_WITHIN_S)
        assert "no answer of the helper" in layer.fault
    finally:
        layer.stop()


def test_an_agent_that_only_watches_drops_nothing_and_takes_away_what_stood(isolated: Isolated) -> None:
    watching = msgspec.structs.replace(isolated.config, agent=AgentConfig(mode="monitor"))

    network_of(watching, "best").enforce()

    assert rules_of(isolated.netns) == isolated.before


def test_while_the_agent_starts_the_rules_are_left_to_the_thread(
    quiet: str, tmp_path: Path, cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by = list[str]()
    done = threading.Event()

    def helper(*_call: object) -> dict[str, object]:
        by.append(threading.current_thread().name)
        return {"layer": "iptables", "changed": False}

    monkeypatch.setattr("mamplus_host.executor.network.secondlayer._run", helper)
    network = network_of(config_for(quiet, tmp_path, cgroup), "best")
    network.second.put_off()
    for name in ("one", "two"):
        network.put(name, Refusal(kind="host", what=HOST4 if name == "one" else HOST6))
        network.enforce()
    assert by == []

    network.second.begin(done.set)
    try:
        assert done.wait(BACK_WITHIN_S)
    finally:
        network.second.stop()
    assert set(by) == {"second-layer"}
