# SPDX-License-Identifier: Apache-2.0
"""What a policy may declare for the time without agent, responder or hash; the configuration fills the rest."""

import json

import pytest

from mamplus_host.config import ExecPolicy
from mamplus_host.errors import ConfigInvalid
from mamplus_host.policy import policy
from mamplus_host.policy.standing import ExecStanding, Standing


def parsed(**standing: object) -> Standing:
    return policy.parse(json.dumps({"standing": standing}).encode()).standing


def test_where_the_policy_says_nothing_the_configuration_holds_and_all_stands() -> None:
    configured = ExecPolicy(on_responder_down="allow", on_deadline="refuse")
    said = policy.parse(b"{}").standing

    assert said.declared(configured) == configured
    assert (said.exec_after_s, said.connect_after_s) == (0, 0)


def test_the_policy_comes_before_the_configuration_answer_by_answer() -> None:
    configured = ExecPolicy(on_responder_down="allow", on_deadline="allow", deadline_ms=70)
    said = Standing(exec=ExecStanding(deadline="refuse"))

    declared = said.declared(configured)

    assert (declared.on_responder_down, declared.on_deadline, declared.deadline_ms) == ("allow", "refuse", 70)


def test_a_posture_has_its_time_only_where_it_is_declared() -> None:
    said = parsed(exec={"agent_down": "refuse-unknown", "agent_down_s": 60}, connect={"agent_down_s": 90})

    assert (said.exec_after_s, said.connect_after_s) == (60, 0)
    assert parsed(connect={"agent_down": "guarded-only", "agent_down_s": 90}).connect_after_s == 90


@pytest.mark.parametrize(
    "standing",
    [
        {"exec": {"agent_down": "allow"}},
        {"exec": {"agent_down_s": 29}},
        {"exec": {"deadline": "perhaps"}},
        {"connect": {"agent_down_s": 3_000_000}},
        {"files": {"agent_down": "release"}},
        {"devices": {}},
    ],
)
def test_a_posture_that_nobody_can_follow_is_refused(standing: dict[str, object]) -> None:
    with pytest.raises(ConfigInvalid, match="not as docs"):
        parsed(**standing)
