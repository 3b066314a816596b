# SPDX-License-Identifier: Apache-2.0
"""What `features` says of this kernel is what attaching finds."""

import msgspec
import pytest

from mamplus_host.kernel import pins
from mamplus_host.kernel.features import YES, probe

from .conftest import Agent

pytestmark = pytest.mark.kernel
NOT_NEEDED = {"signal_other", "lsm", "fentry", "optional"}


def test_where_an_agent_attaches_all_that_it_needs_is_there(agent: Agent) -> None:
    found = msgspec.structs.asdict(probe())

    assert {name: answer for name, answer in found.items() if name not in NOT_NEEDED and answer != YES} == {}
    hooks = agent.kernel.hooks()
    assert ("resumed" in hooks) == (found["fentry"] == YES)
    assert ("signal" in hooks) == ("resumed" not in hooks and found["signal_other"] == YES)


def test_a_no_has_a_reason() -> None:
    found = msgspec.structs.asdict(probe())
    optional = found.pop("optional")

    assert set(optional) == {path.name.partition(".")[0] for path in (*pins.OPTIONAL_OBJECTS, pins.FILES_OBJECT)}
    for answer in (*found.values(), *optional.values()):
        assert answer == YES or answer.startswith("no: ")
