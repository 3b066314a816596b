# SPDX-License-Identifier: Apache-2.0
"""A suspicion takes back no block: the kernel answers as `verify` does, within a layer and across layers."""

import errno
import time

import pytest

from mamplus_host.analyzer.verify import verify_text
from mamplus_host.ble.encode import encode
from mamplus_host.ble.entry import Entry, Kind, canonical
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.stack import LayerFiles, Stack
from mamplus_host.verdicts import Verdict

from .conftest import Agent

pytestmark = pytest.mark.kernel
B, A, S = Verdict.BLOCK, Verdict.ALLOW, Verdict.SUSPECT
PORT = "9"  # discard: nobody listens
Line = tuple[Kind, str, Verdict]

WIDE_AND_NARROW = [
    ("tcp", "127.66.0.7", (Kind.IP, "127.66.0.7"), (Kind.IP, "127.66.0.7:*/tcp")),
    ("tcp", "127.66.0.7", (Kind.IP, "127.66.0.7:9"), (Kind.IP, "127.66.0.7:9/tcp")),
    ("tcp", "127.66.0.7", (Kind.CIDR, "127.66.0.0/16"), (Kind.CIDR, "127.66.0.0/17")),
    ("tcp", "127.66.0.7", (Kind.CIDR, "127.66.0.0/16"), (Kind.CIDR, "127.66.0.0/16:9")),
    ("tcp", "127.66.0.7", (Kind.PORT, "9"), (Kind.PORT, "9/tcp")),
    ("tcp", "::1", (Kind.IP, "::1"), (Kind.IP, "[::1]:*/tcp")),
    ("tcp", "::1", (Kind.CIDR, "::/32"), (Kind.CIDR, "::/64")),
    ("dns", "c2.evil.example", (Kind.DOMAIN, "evil.example"), (Kind.DOMAIN, "c2.evil.example")),
    ("dns", "evil.example", (Kind.DOMAIN, "evil.example"), (Kind.DOMAIN, "=evil.example")),
]


def made(*lines: Line, first: int = 1) -> Generation:
    entries = [
        Entry(id=number, kind=kind, value=canonical(kind, value), verdict=verdict)
        for number, (kind, value, verdict) in enumerate(lines, first)
    ]
    return Generation(encode(entries, generation=1, created_s=1))


def stack_of(layer: Layer, decided: Line, doubted: Line) -> Stack:
    """Both in the administrators' layer, or the doubt in another one."""
    if layer is Layer.ENTERPRISE:
        return Stack.of(made(decided, doubted))
    return Stack([LayerFiles(Layer.ENTERPRISE, made(decided)), LayerFiles(layer, made(doubted, first=9))])


@pytest.mark.parametrize("layer", list(Layer))
@pytest.mark.parametrize(("how", "asked", "wide", "narrow"), WIDE_AND_NARROW)
def test_what_a_wider_entry_blocks_stays_blocked_under_a_suspicion(
    agent: Agent, how: str, asked: str, wide: tuple[Kind, str], narrow: tuple[Kind, str], layer: Layer
) -> None:
    with stack_of(layer, (*wide, B), (*narrow, S)) as stack:
        agent.kernel.tables.load(stack, time.time())
        spelled = f"[{asked}]:{PORT}/tcp" if ":" in asked else f"{asked}:{PORT}/tcp"
        told = verify_text(stack, *((Kind.DOMAIN, asked) if how == "dns" else (Kind.IP, spelled)), now_s=time.time())

    arguments = ("127.0.0.1", asked) if how == "dns" else (asked, PORT)
    code = agent.run(agent.programs / "talk", how, *arguments)

    assert (code, told.verdict) == (errno.EPERM, B)
    assert agent.wait_for("dns" if how == "dns" else "connect").verdict is B


@pytest.mark.parametrize(("how", "asked", "wide", "narrow"), WIDE_AND_NARROW)
def test_what_a_wider_entry_allows_stays_allowed_and_a_specific_allow_wins(
    agent: Agent, how: str, asked: str, wide: tuple[Kind, str], narrow: tuple[Kind, str]
) -> None:
    arguments = ("127.0.0.1", asked) if how == "dns" else (asked, PORT)
    for verdicts in ((A, S), (B, A)):
        agent.publish((*wide, verdicts[0]), (*narrow, verdicts[1]))

        assert agent.run(agent.programs / "talk", how, *arguments) == (0 if how == "dns" else errno.ECONNREFUSED)

    assert agent.count("dns") + agent.count("connect") == 0


def test_of_suspicions_alone_the_most_specific_is_told(agent: Agent) -> None:
    agent.publish((Kind.CIDR, "127.66.0.0/16", S), (Kind.CIDR, "127.66.0.0/24", S))
    assert agent.run(agent.programs / "talk", "tcp", "127.66.0.7", PORT) == errno.ECONNREFUSED
    slot = agent.wait_for("connect").fields["head_slot"]
    agent.seen.clear()

    agent.publish((Kind.CIDR, "127.66.0.0/16", S), (Kind.CIDR, "127.66.0.0/24", B), generation=2)
    assert agent.run(agent.programs / "talk", "tcp", "127.66.0.7", PORT) == errno.EPERM

    assert agent.wait_for("connect").fields["head_slot"] == slot
