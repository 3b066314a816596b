# SPDX-License-Identifier: Apache-2.0
"""An administrator answers an alert: by program, by command line; the list carries it to every device."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from mamplus_host.ble.entry import Entry
from mamplus_host.ble.format import Generation
from mamplus_host.verdicts import Verdict
from tests.enterprise.company import Company


def published(company: Company) -> dict[str, Entry]:
    """Return what the newest generation holds, by value."""
    newest = max((company.dir / "repository" / "targets" / "ble-enterprise").glob("*.list.mble"), key=_generation)
    with Generation.open(newest) as generation:
        generation.check()
        return {entry.value: entry for entry in generation.entries()}


def _generation(path: Path) -> int:
    with Generation.open(path) as generation:
        return generation.number


def indicator(text: str) -> dict[str, str]:
    return {"kind": "sha256", "value": hashlib.sha256(text.encode()).hexdigest()}


@pytest.mark.parametrize(("what", "verdict"), [("confirm", Verdict.BLOCK), ("dismiss", Verdict.ALLOW)])
def test_an_answer_is_an_entry_in_a_new_generation(company: Company, what: str, verdict: Verdict) -> None:
    alert = company.device().sent(indicator=indicator("tool"))

    answer = company.admin("POST", f"/alerts/{alert}/{what}", {"reason": "seen before"})

    assert answer.status == 200
    assert answer.body["generation"] == 2
    entry = published(company)[indicator("tool")["value"]]
    assert (entry.id, entry.verdict) == (answer.body["entry_id"], verdict)
    assert (entry.reason, entry.source) == ("seen before", f"alert:{alert}")


def test_an_answer_covers_every_open_alert_about_the_same_value_and_no_other(company: Company) -> None:
    first, second = company.device("first"), company.device("second")
    one = first.sent(indicator=indicator("tool"))
    same = second.sent(indicator={"kind": "SHA256", "value": indicator("tool")["value"].upper()})
    other = second.sent(indicator=indicator("other"))

    assert company.admin("POST", f"/alerts/{one}/confirm", {"reason": ""}).body["alerts"] == 2

    states = {alert["id"]: alert["state"] for alert in company.admin("GET", "/alerts?state=all").body}
    assert states == {one: "confirmed", same: "confirmed", other: "open"}


def test_an_alert_is_answered_once(company: Company) -> None:
    alert = company.device().sent()

    assert company.admin("POST", f"/alerts/{alert}/confirm", {"reason": ""}).status == 200
    again = company.admin("POST", f"/alerts/{alert}/dismiss", {"reason": ""})
    by_hand = company.attempt("alerts", "dismiss", alert)

    assert again.status == 409
    assert "was confirmed by administrator (API)" in again.body["detail"]
    assert (by_hand.returncode, "was confirmed" in by_hand.stderr) == (1, True)
    assert company.ask("GET", "/v1/hello").body["generation"] == 2


def test_the_later_answer_about_a_value_wins(company: Company) -> None:
    device = company.device()
    dismissed = device.sent(indicator=indicator("tool"))
    company.run("alerts", "dismiss", dismissed)
    assert published(company)[indicator("tool")["value"]].verdict is Verdict.ALLOW

    confirmed = device.sent(indicator=indicator("tool"))
    company.run("alerts", "confirm", confirmed)

    assert published(company)[indicator("tool")["value"]].verdict is Verdict.BLOCK


def test_an_alert_about_what_is_never_blocked_cannot_be_confirmed_only_dismissed(company: Company) -> None:
    (company.dir / "never-block.txt").write_text("portal.example\n")
    alert = company.device().sent(indicator={"kind": "domain", "value": "portal.example"})

    refused = company.admin("POST", f"/alerts/{alert}/confirm", {"reason": ""})

    assert (refused.status, "portal.example is never to be blocked" in refused.body["detail"]) == (422, True)
    assert company.admin("POST", f"/alerts/{alert}/dismiss", {"reason": ""}).status == 200


def test_a_confirmed_address_is_blocked_though_its_port_is_suspected(company: Company) -> None:
    company.run("ble", "add", "ip", "45.66.7.8:443/tcp", "--verdict", "suspect")
    company.run("ble", "publish")
    alert = company.device().sent(indicator={"kind": "ip", "value": "45.66.7.8"})

    company.run("alerts", "confirm", alert)
    asked = json.loads(company.attempt("ble", "check", "ip", "45.66.7.8:443/tcp", "--json").stdout)["published"]

    assert (asked["verdict"], asked["entry"]["value"]) == ("block", "45.66.7.8")


@pytest.mark.parametrize(
    "named", [None, {"kind": "sha256", "value": "nothing"}, {"kind": "serial", "value": "4711"}], ids=repr
)
def test_an_alert_without_a_value_for_the_list_is_kept_but_cannot_be_confirmed(company: Company, named: Any) -> None:
    alert = company.device().sent(indicator=named)

    assert company.admin("POST", f"/alerts/{alert}/confirm", {"reason": ""}).status == 422
    assert [one["state"] for one in company.admin("GET", "/alerts").body] == ["open"]
    assert company.ask("GET", "/v1/hello").body["generation"] == 1


def test_only_administrators_answer(company: Company) -> None:
    alert = company.device().sent()
    path = f"/v1/admin/alerts/{alert}/confirm"

    assert company.ask("POST", path, {"reason": ""}).status == 401
    assert company.ask("POST", path, {"reason": ""}, {"Authorization": "Bearer nobody"}).status == 401
    assert company.ask("GET", "/v1/admin/devices").status == 401
    assert company.admin("POST", "/alerts/999/confirm", {"reason": ""}).status == 404
    assert company.admin("POST", f"/alerts/{alert}/confirm", {"reason": "x" * 5000}).status == 422
    assert company.admin("GET", "/alerts").body[0]["state"] == "open"


def test_an_answer_that_cannot_be_published_stands_and_the_next_generation_carries_it(company: Company) -> None:
    alert = company.device().sent(indicator=indicator("tool"))
    # A directory where a file must go: unlike a mode, that stops root too.
    obstacle = company.dir / "repository" / "metadata" / "2.ble-enterprise.json"
    obstacle.mkdir()

    refused = company.admin("POST", f"/alerts/{alert}/confirm", {"reason": ""})
    obstacle.rmdir()
    company.run("ble", "publish")

    assert refused.status == 500
    assert "ble publish" in refused.body["detail"]
    assert published(company)[indicator("tool")["value"]].verdict is Verdict.BLOCK


def test_two_devices_with_the_same_alert_id_are_told_apart_by_number(company: Company) -> None:
    for name in ("one", "two"):
        company.device(name).sent(id="0" * 25 + "A")

    ambiguous = company.attempt("alerts", "confirm", "0" * 25 + "A")
    numbers = [alert["number"] for alert in company.json("alerts")]

    assert (ambiguous.returncode, "say its number" in ambiguous.stderr) == (1, True)
    assert company.attempt("alerts", "confirm", numbers[0]).returncode == 0
