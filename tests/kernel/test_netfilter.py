# SPDX-License-Identifier: Apache-2.0
"""Our iptables chains, in a network namespace of the test's own, with filters of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mamplus_host.config import Config, Scope
from mamplus_host.errors import NetfilterFailed
from mamplus_host.executor.network import netfilter
from mamplus_host.tamper.rules import FULL_EVERY_S, Rules
from tests.kernel import acts

pytestmark = pytest.mark.kernel

DROP_ALL, DROP_NONE = "return 1;", "return 0;"
SAVES = ("iptables-legacy-save", "ip6tables-legacy-save")
STARTED = """
import json, sys
started = []
sys.addaudithook(lambda event, words: started.append(words[1]) if event == "subprocess.Popen" else None)
from mamplus_host.executor.network import netfilter_helper
print(json.dumps(started))
"""


@pytest.fixture(scope="module")
def pins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with acts.own_bpffs() as bpffs:
        work = tmp_path_factory.mktemp("filters")
        acts.pin_filter(bpffs / "all", DROP_ALL, work)
        acts.pin_filter(bpffs / "none", DROP_NONE, work)
        yield bpffs


@pytest.fixture
def netns() -> Iterator[str]:
    with acts.own_netns() as name:
        yield name


def saved(netns: str, program: str) -> str:
    done = subprocess.run(["ip", "netns", "exec", netns, program], check=True, capture_output=True, text=True)
    return done.stdout


def answers(netns: str, target: str) -> bool:
    """Send one UDP datagram inside the namespace, and say whether it arrived."""
    program = (
        "import socket,sys\n"
        "family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n"
        "a = socket.socket(family, socket.SOCK_DGRAM); a.bind((sys.argv[1], 0)); a.settimeout(0.3)\n"
        "b = socket.socket(family, socket.SOCK_DGRAM)\n"
        "try: b.sendto(b'x', a.getsockname()); a.recv(1)\n"
        "except OSError: sys.exit(3)\n"
    )
    code = subprocess.run(["ip", "netns", "exec", netns, "python3", "-c", program, target], check=False).returncode
    assert code in (0, 3)
    return code == 0


def config(*names: str) -> Config:
    return Config(scope=Scope(netns=names))


def test_a_helper_starts_without_a_search_for_the_libraries_of_iptables() -> None:
    """Compilers, linkers and an ldconfig that reads every library took a minute of an emulated machine."""
    done = subprocess.run([sys.executable, "-c", STARTED], check=True, capture_output=True)

    started = [" ".join(words) for words in json.loads(done.stdout) if not words[0].endswith("modprobe")]
    assert set(started) <= {"/sbin/ldconfig -p"}  # the loader's cache, printed


@pytest.mark.parametrize("target", ["127.0.0.1", "::1"])
def test_what_the_pinned_program_says_decides_about_packets_of_both_families(
    netns: str, pins: Path, target: str
) -> None:
    netfilter.apply(config(netns), pins / "none", pins / "none")
    assert answers(netns, target)

    netfilter.apply(config(netns), pins / "all", pins / "none")
    assert not answers(netns, target)

    netfilter.remove(config(netns))
    assert answers(netns, target)


@pytest.mark.parametrize("program", SAVES)
def test_applying_twice_leaves_one_rule_a_direction_and_one_jump_each(netns: str, pins: Path, program: str) -> None:
    netfilter.apply(config(netns), pins / "all", pins / "none")
    once = saved(netns, program)
    netfilter.apply(config(netns), pins / "all", pins / "none")

    rules = [line for line in saved(netns, program).splitlines() if line.startswith("-A")]
    assert sorted(rules) == [
        "-A INPUT -j MAMPLUS-IN",
        f"-A MAMPLUS-IN -m bpf --object-pinned {pins / 'all'} -j DROP",
        f"-A MAMPLUS-OUT -m bpf --object-pinned {pins / 'none'} -j DROP",
        "-A OUTPUT -j MAMPLUS-OUT",
    ]
    assert [line for line in once.splitlines() if line.startswith("-A")] == rules


@pytest.mark.parametrize("program", SAVES)
def test_removing_leaves_nothing_of_ours_and_every_rule_of_others(netns: str, pins: Path, program: str) -> None:
    tool = program.removesuffix("-save")
    for chain in ("INPUT", "OUTPUT"):
        subprocess.run(["ip", "netns", "exec", netns, tool, "-A", chain, "-p", "tcp", "-j", "ACCEPT"], check=True)
    before = [line for line in saved(netns, program).splitlines() if line[:1] not in "#:"]

    netfilter.apply(config(netns), pins / "all", pins / "all")
    netfilter.remove(config(netns))
    netfilter.remove(config(netns))

    assert [line for line in saved(netns, program).splitlines() if line[:1] not in "#:"] == before


def test_our_jump_is_put_first_again_after_another_program_put_its_own_there(netns: str, pins: Path) -> None:
    netfilter.apply(config(netns), pins / "all", pins / "none")
    subprocess.run(["ip", "netns", "exec", netns, "iptables-legacy", "-I", "INPUT", "-j", "ACCEPT"], check=True)

    missing = netfilter.check(config(netns), pins / "all", pins / "none")
    netfilter.apply(config(netns), pins / "all", pins / "none")

    assert missing == {netns: ["IPv4: first jump of INPUT to MAMPLUS-IN"]}
    rules = [line for line in saved(netns, SAVES[0]).splitlines() if line.startswith("-A INPUT")]
    assert rules == ["-A INPUT -j MAMPLUS-IN", "-A INPUT -j ACCEPT"]


def test_check_names_every_missing_piece_and_none_when_all_are_there(netns: str, pins: Path) -> None:
    before = netfilter.check(config(netns), pins / "all", pins / "none")
    netfilter.apply(config(netns), pins / "all", pins / "none")

    assert netfilter.check(config(netns), pins / "all", pins / "none") == {netns: []}
    assert netfilter.check(config(netns), pins / "none", pins / "none") == {
        netns: ["IPv4: the one rule of MAMPLUS-IN", "IPv6: the one rule of MAMPLUS-IN"]
    }
    assert len(before[netns]) == 8


def test_a_rule_whose_pin_is_gone_can_still_be_replaced_and_removed(netns: str, pins: Path, tmp_path: Path) -> None:
    doomed = acts.pin_filter(pins / f"doomed-{netns}", DROP_ALL, tmp_path)
    netfilter.apply(config(netns), doomed, doomed)
    doomed.unlink()

    netfilter.apply(config(netns), pins / "none", pins / "none")
    assert answers(netns, "127.0.0.1")

    netfilter.remove(config(netns))
    assert "MAMPLUS" not in saved(netns, SAVES[0])


def test_a_pin_that_is_not_there_is_refused_in_words_and_changes_nothing(netns: str, pins: Path) -> None:
    with pytest.raises(NetfilterFailed, match=f"namespace '{netns}': iptables refused to apply"):
        netfilter.apply(config(netns), pins / "no-such-pin", pins / "none")

    assert "MAMPLUS" not in saved(netns, SAVES[0])


def test_a_namespace_that_is_not_there_is_clean_and_is_not_made() -> None:
    netfilter.remove(config("mptest-never-was"))

    with pytest.raises(NetfilterFailed, match="mptest-never-was"):
        netfilter.apply(config("mptest-never-was"), Path("/a"), Path("/b"))
    assert not Path("/run/netns/mptest-never-was").exists()


def test_rules_that_are_flushed_before_the_first_look_are_found_by_it(netns: str, pins: Path) -> None:
    netfilter.apply(config(netns), pins / "all", pins / "none")
    rules = Rules(config(netns))
    try:
        subprocess.run(["ip", "netns", "exec", netns, "iptables-legacy", "-F", "MAMPLUS-OUT"], check=True)

        assert [rules.look(now_s) for now_s in (1.0, 2.0, 2.0 + FULL_EVERY_S)] == [True, False, True]
    finally:
        rules.close()
