# SPDX-License-Identifier: Apache-2.0
"""The runner of attacks: what it plays, what it keeps, and whom its attackers descend from."""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.attacks import attacker, table
from tests.attacks.attack import all_attacks
from tests.attacks.attacker import Attacker
from tests.attacks.ground import Ground
from tests.attacks.outcome import Seen, Unexplained
from tests.attacks.play import Choice
from tests.kernel.acts import own_cgroup

ON = cast(Ground, SimpleNamespace(tier="signal", hooks={"signal": ""}))
EVERY = list(all_attacks())


def chosen(only: str = "", **more: Any) -> list[str]:
    return [one.name for one in Choice(re.compile(only), **more).attacks(ON)]


def test_attacks_are_chosen_by_an_expression_about_family_and_name() -> None:
    assert chosen() == EVERY
    assert chosen("scripts: perl|: hard link$") == ["hard link", "perl FILE"]


def test_a_run_goes_on_where_one_was_cut_off_and_plays_again_what_was_not_as_documented(tmp_path: Path) -> None:
    release = os.uname().release
    table.keep("signal", release, {"plain": {"outcome": "killed"}}, tmp_path)
    table.keep("signal", release, {"copy": {"outcome": "unexplained"}}, tmp_path)

    assert chosen(to=tmp_path, resume=True) == [name for name in EVERY if name != "plain"]
    assert chosen(to=tmp_path) == EVERY


def test_what_came_of_one_attack_is_written_beside_what_came_of_others(tmp_path: Path) -> None:
    table.keep("lsm", "6.1.0-56-amd64", {"copy": {"outcome": "refused"}}, tmp_path)
    table.keep("lsm", "6.1.0-56-amd64", {"plain": {"outcome": "killed"}}, tmp_path)

    kept = table.outcomes("lsm", "6.1.0-60-amd64", tmp_path)
    assert [(name, told["outcome"]) for name, told in kept.items()] == [("plain", "killed"), ("copy", "refused")]


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with own_cgroup() as path:
        yield path


def ancestors() -> list[int]:
    found, pid = [], os.getpid()
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(pid)
    return found


@pytest.mark.kernel
def test_an_attacker_does_not_descend_from_the_runner(cgroup: Path) -> None:
    runner = os.getpid()

    with closing(Attacker.begin(lambda: 3 if runner in ancestors() else 4, cgroup)) as one:
        assert one.wait() == Seen(exit=4)


@pytest.mark.kernel
def test_an_attacker_tells_the_errno_that_it_met_and_the_signal_that_ended_it(cgroup: Path) -> None:
    with closing(Attacker.begin(lambda: os.open("/does/not/exist", os.O_RDONLY), cgroup)) as one:
        assert one.wait() == Seen(exit=1, errno=2)
    with closing(Attacker.begin(lambda: os.kill(os.getpid(), signal.SIGKILL), cgroup)) as one:
        assert one.wait() == Seen(exit=-signal.SIGKILL)


@pytest.mark.kernel
def test_an_attacker_that_does_not_end_is_killed_and_is_no_outcome(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Attacker.begin(lambda: time.sleep(60), cgroup)) as one:
        monkeypatch.setattr(attacker, "DEADLINE_S", 1.0)
        with pytest.raises(Unexplained, match="did not end"):
            one.wait()

        assert not Path(f"/proc/{one.pid}").exists()
