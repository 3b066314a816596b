# SPDX-License-Identifier: Apache-2.0
"""What devices say of their controls: taken in, bounded, kept with its changes, and shown everywhere."""

import time
from typing import Any

import pytest

from mamplus_enterprise.devices.controls import MAX_CHANGES, MAX_CONTROLS, rank, summary
from tests.enterprise.company import Answer, Company, FakeDevice


def control(name: str, state: str = "enforcing", **more: str) -> dict[str, str]:
    return {"control": name, "state": state, "group": "programs", "tier": "signal", "reason": "seen", **more}


def say(device: FakeDevice, *controls: dict[str, str], **more: Any) -> Answer:
    examined = {
        "at": time.time(), "why": "boot", "kernel": "6.12.9", "agent": "0.1.0", "generation": 3,
        "controls": list(controls), **more,
    }  # fmt: skip
    return device.ask("POST", "/v1/report", {"generation": 3, "at": time.time(), "examined": examined})


def test_a_device_that_tried_nothing_is_not_reported_and_one_that_did_has_its_worst_state(company: Company) -> None:
    company.device("old scanner")
    van = company.device("van 7")

    done = say(van, control("exec"), control("DNS", "degraded"), control("library", "not possible", tier=""))

    assert (done.status, done.body) == (200, {})
    old, new = company.admin("GET", "/devices").body
    assert old["controls"] is None
    assert new["controls"]["worst"] == "not possible"
    assert new["controls"]["counts"] == {"enforcing": 1, "degraded": 1, "not possible": 1}
    listed = company.run("devices")
    assert "not reported" in listed.splitlines()[1]
    assert "not possible (1 of 3)" in listed.splitlines()[2]


def test_a_control_is_shown_with_its_tier_and_reason_by_id_beginning_of_it_or_name(company: Company) -> None:
    van = company.device("van 7")
    say(van, control("exec", "degraded", reason="no BPF LSM: Operation not permitted"))

    shown = company.json("devices", "show", van.id[:10])

    assert shown["examined"]["controls"][0]["reason"] == "no BPF LSM: Operation not permitted"
    assert (shown["examined"]["kernel"], shown["examined"]["why"]) == ("6.12.9", "boot")
    assert company.admin("GET", f"/devices/{van.id}").body == shown
    text = company.run("devices", "show", "van 7")
    assert all(word in text for word in ("degraded", "signal", "no BPF LSM: Operation not permitted", van.id))


def test_a_device_that_nobody_knows_and_a_name_of_two_are_refused(company: Company) -> None:
    company.device("twin"), company.device("twin")

    assert company.admin("GET", "/devices/nobody").status == 404
    refused = company.attempt("devices", "show", "twin")
    assert refused.returncode == 1
    assert "several devices" in refused.stderr


def test_only_changes_are_kept_newest_first(company: Company) -> None:
    van = company.device()
    say(van, control("exec"), control("DNS"))
    say(van, control("exec"), control("DNS"))
    say(van, control("exec", "not possible", reason="detached"), control("DNS"), control("new"))
    say(van, control("exec"), control("DNS"))

    found = company.json("devices", "show", van.id)["changes"]

    assert [(one["control"], one["was"], one["state"]) for one in found] == [
        ("exec", "not possible", "enforcing"), ("exec", "enforcing", "not possible"),
    ]  # fmt: skip
    assert found[1]["reason"] == "detached"


def test_the_history_of_a_device_that_flaps_is_bounded_and_keeps_the_newest(company: Company) -> None:
    van, other = company.device("van"), company.device("other")
    say(other, control("exec"))
    say(other, control("exec", "degraded"))
    names = [f"control {number}" for number in range(MAX_CONTROLS)]
    for turn in range(2 + MAX_CHANGES // MAX_CONTROLS * 2):
        say(van, *(control(name, ("enforcing", "degraded")[turn % 2], reason=f"turn {turn}") for name in names))

    found = company.json("devices", "show", "van")["changes"]

    assert len(found) == MAX_CHANGES
    assert found[0]["reason"] == f"turn {turn}"
    assert len(company.json("devices", "show", "other")["changes"]) == 1


@pytest.mark.parametrize(
    "controls",
    [
        [control("x" * 101)],
        [control("exec", reason="x" * 241)],
        [control("exec", "x" * 33)],
        [control(f"control {number}") for number in range(MAX_CONTROLS + 1)],
    ],
    ids=["name", "reason", "state", "count"],
)
def test_more_than_a_device_of_ours_says_is_refused_and_changes_nothing(
    company: Company, controls: list[dict[str, str]]
) -> None:
    van = company.device()
    say(van, control("exec"))

    assert say(van, *controls).status == 422
    assert len(company.json("devices", "show", van.id)["examined"]["controls"]) == 1


@pytest.mark.parametrize(
    "odd",
    [{"at": -1e308}, {"at": 1e308}, {"generation": -1}, {"generation": 10**400}],
    ids=["long ago", "far ahead", "negative", "huge"],
)
def test_a_time_or_generation_that_cannot_be_is_refused(company: Company, odd: dict[str, float]) -> None:
    assert say(company.device(), control("exec"), **odd).status == 422


def test_nobody_but_the_device_reports_for_it(company: Company) -> None:
    van, stranger = company.device("van"), FakeDevice(company, "stranger")
    stranger.id = van.id

    assert say(stranger, control("exec")).status == 401
    assert company.json("devices")[0]["controls"] is None


def test_a_report_without_trials_leaves_what_was_said_before(company: Company) -> None:
    van = company.device()
    say(van, control("exec"))

    assert van.ask("POST", "/v1/report", {"generation": 4, "at": time.time()}).status == 200

    (row,) = company.json("devices")
    assert (row["generation"], row["controls"]["worst"]) == (4, "enforcing")


def test_a_state_of_a_later_release_counts_as_the_worst() -> None:
    examined = {"controls": [{"state": "bewildered"}, {"state": "not possible"}]}
    facts = dict.fromkeys(("at", "received_at", "why", "kernel", "agent", "generation"), 0)

    found = summary(examined | facts)

    assert rank("bewildered") > rank("not possible") > rank("enforcing")
    assert found is not None
    assert found["worst"] == "bewildered"
