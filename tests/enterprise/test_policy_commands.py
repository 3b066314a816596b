# SPDX-License-Identifier: Apache-2.0
"""`mamplus-enterprise policy`: what devices would refuse is refused here, and versions only grow."""

import json
from pathlib import Path
from typing import Any

from mamplus_enterprise.home import Home
from mamplus_enterprise.policy import target
from mamplus_host.policy.policy import Policy, parse
from tests.enterprise.company import Company


def written(path: Path, **fields: Any) -> Path:
    path.write_text(json.dumps(fields))
    return path


def test_the_shown_policy_can_be_changed_and_set(quiet: Company, tmp_path: Path) -> None:
    shown = json.loads(quiet.run("policy", "show"))
    assert target(Home.open(quiet.dir)) is None, "nothing to publish before one is set"

    quiet.run("policy", "set", written(tmp_path / "p.json", **{**shown, "dead_man_s": 60}))

    signed = target(Home.open(quiet.dir))
    assert signed is not None
    assert (signed[0], parse(signed[1])) == (1, Policy(version=1, dead_man_s=60))
    assert parse(quiet.run("policy", "show").encode()) == Policy(version=1, dead_man_s=60)


def test_what_no_device_would_take_is_exit_2_and_changes_nothing(quiet: Company, tmp_path: Path) -> None:
    bad = written(tmp_path / "p.json", dead_mans=60)

    checked, tried = quiet.attempt("policy", "check", bad), quiet.attempt("policy", "set", bad)

    for done in (checked, tried):
        assert (done.returncode, "dead_mans" in done.stderr) == (2, True)
    assert target(Home.open(quiet.dir)) is None
    assert quiet.attempt("policy", "check", tmp_path / "none.json").returncode == 2


def test_a_policy_made_from_an_older_one_is_refused(quiet: Company, tmp_path: Path) -> None:
    quiet.run("policy", "set", written(tmp_path / "p.json", shadow_limit=1))
    shown = json.loads(quiet.run("policy", "show"))
    quiet.run("policy", "set", written(tmp_path / "p.json", **{**shown, "shadow_limit": 2}))

    done = quiet.attempt("policy", "set", written(tmp_path / "q.json", **{**shown, "shadow_limit": 3}))

    assert (done.returncode, "want 2" in done.stderr) == (2, True)
    assert json.loads(quiet.run("policy", "show"))["shadow_limit"] == 2
