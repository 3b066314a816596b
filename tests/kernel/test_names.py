# SPDX-License-Identifier: Apache-2.0
"""DNS names that were asked for: a list that would refuse them is tried on them before it is swapped in."""

import errno
import time

import pytest

from mamplus_host.ble.encode import encode
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.shadow import Use
from mamplus_host.ble.stack import LayerFiles, Stack
from mamplus_host.generations.trying import Situation, try_out
from mamplus_host.generations.usage import Usage
from mamplus_host.kernel import layout
from mamplus_host.recent import Recent
from mamplus_host.verdicts import Verdict

from .conftest import Agent

pytestmark = pytest.mark.kernel


def ask(agent: Agent, name: str) -> int:
    return agent.run(agent.programs / "talk", "dns", "127.0.0.1", name)


def names(usage: Usage) -> list[Use]:
    return [use for use in usage.in_use() if use.kind is Kind.DOMAIN]


@pytest.fixture
def usage(agent: Agent) -> Usage:
    return Usage(agent.cgroup, agent.kernel.tables)


def test_what_was_asked_for_is_in_use_and_what_was_refused_is_not(agent: Agent, usage: Usage) -> None:
    agent.publish((Kind.DOMAIN, "bad.example", Verdict.BLOCK), (Kind.DOMAIN, "odd.example", Verdict.SUSPECT))

    answers = [ask(agent, name) for name in ("WwW.good.example", "bad.example", "odd.example", "b.example")]

    assert answers == [0, errno.EPERM, 0, 0]
    assert names(usage) == [Use(Kind.DOMAIN, "www.good.example", "talk"), Use(Kind.DOMAIN, "b.example", "talk")]


def test_a_name_counts_for_one_look_and_again_when_it_is_asked_for_again(agent: Agent, usage: Usage) -> None:
    ask(agent, "a.example")
    ask(agent, "b.example")
    first, second = names(usage), names(usage)
    ask(agent, "a.example")

    assert ([use.value for use in first], second) == (["a.example", "b.example"], [])
    assert [use.value for use in names(usage)] == ["a.example"]


def test_a_name_that_has_come_to_be_refused_is_not_remembered_any_more(agent: Agent, usage: Usage) -> None:
    ask(agent, "a.example")
    agent.publish((Kind.DOMAIN, "a.example", Verdict.BLOCK))

    assert ask(agent, "a.example") == errno.EPERM

    assert names(usage) == []


def test_the_memory_of_names_is_bounded_and_keeps_the_latest(agent: Agent, usage: Usage) -> None:
    for number in range(layout.QUESTIONS_MAX // 8):
        ask(agent, f"n{number}.example")
    held = [use.value for use in names(usage)]

    assert held[-8:] == [f"n{number}.example" for number in range(layout.QUESTIONS_MAX // 8)][-8:]
    assert len(held) <= layout.QUESTIONS_MAX


def test_a_list_that_would_refuse_names_in_use_says_so_before_it_is_swapped_in(agent: Agent, usage: Usage) -> None:
    ask(agent, "www.partner.example")
    recent = Recent()
    recent.sample(usage.in_use())
    entry = Entry(id=1, kind=Kind.DOMAIN, value="partner.example", verdict=Verdict.BLOCK)
    new = Stack([LayerFiles(Layer.ENTERPRISE, Generation(encode([entry], generation=2, created_s=1)), ())])

    said = try_out(None, new, Situation(uses=tuple(recent), lifelines=(), limit=0), now_s=time.time())

    assert said.is_too_much(0)
    assert [(one.kind, one.value, one.by) for one in said.examples] == [("domain", "www.partner.example", "talk")]
