# SPDX-License-Identifier: Apache-2.0
"""What a device may expect of its enterprise (docs/protocol.md), over a real socket."""

import base64
import hashlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.enterprise.company import Company, FakeDevice


def test_a_token_names_the_certificate_and_lets_one_device_in_once(company: Company) -> None:
    token = company.token()
    first, second = FakeDevice(company, "one"), FakeDevice(company, "two")

    answer = first.enroll(token["secret"])
    again = second.enroll(token["secret"])

    certificate = company.connection()
    certificate.connect()
    der = certificate.sock.getpeercert(binary_form=True)  # type: ignore[union-attr]
    certificate.close()
    assert token["url"] == f"https://127.0.0.1:{company.port}"
    assert token["fingerprint"] == hashlib.sha256(der).hexdigest()
    assert (answer.status, answer.body["device_id"]) == (200, first.id)
    assert base64.b64decode(answer.body["root"]) == (company.dir / "repository/metadata/1.root.json").read_bytes()
    assert again.status == 403
    assert "used" in again.body["detail"]


def test_a_device_must_hold_the_key_that_it_enrols(company: Company) -> None:
    stranger = FakeDevice(company, "stranger")
    token = company.token()

    stolen = FakeDevice(company, "thief").enroll(token["secret"], public_key=base64.b64encode(stranger.public).decode())
    malformed = stranger.enroll(token["secret"], public_key="AAAA")
    unknown = stranger.enroll("00" * 32)
    honest = stranger.enroll(token["secret"])

    assert [stolen.status, malformed.status, unknown.status, honest.status] == [422, 422, 403, 200]


@pytest.mark.parametrize(
    ("change", "status"),
    [({}, 200), ({"Mamplus-Time": "1"}, 401), ({"Mamplus-Device": "0" * 64}, 401), ({"Mamplus-Signature": "x"}, 401)],
    ids=["as signed", "other time", "other device", "no signature"],
)
def test_a_request_must_be_signed_as_it_is(company: Company, change: dict[str, str], status: int) -> None:
    device = company.device()
    path = "/v1/wait?generation=0&poll_s=0"
    headers = device.headers("GET", path, b"") | change

    assert company.ask("GET", path, None, headers).status == status


def test_a_signature_covers_the_query_and_the_body(company: Company) -> None:
    device = company.device()
    body = json.dumps({"alerts": [device.alert()]}).encode()
    headers = device.headers("POST", "/v1/alerts", body)

    assert company.ask("POST", "/v1/alerts", body + b" ", headers).status == 401
    assert company.ask("POST", "/v1/alerts?x=1", body, headers).status == 401
    assert company.ask("POST", "/v1/alerts", body, headers).status == 200


def test_an_alert_is_stored_once_however_often_it_arrives(company: Company) -> None:
    device = company.device()
    alerts = [device.alert() for _ in range(3)]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: device.send(*alerts), range(8)))

    assert [answer.body for answer in answers] == [{"acknowledged": [1, 2, 3]}] * 8
    stored = company.admin("GET", "/alerts?state=all").body
    assert [alert["seq"] for alert in stored] == [3, 2, 1]  # newest first


def test_an_alert_that_does_not_fit_does_not_hold_up_the_others(company: Company) -> None:
    device, other = company.device(), company.device("other")
    good, forged, foreign, last = device.alert(), device.alert(), other.alert(seq=3), device.alert(seq=4)
    forged["signature"] = good["signature"]
    foreign["seq"] = 3

    answer = device.send(good, forged, foreign, last)

    assert (answer.status, answer.body["seq"]) == (422, 2)
    assert "signature" in answer.body["detail"]
    assert answer.body["acknowledged"] == [1, 4]
    assert [alert["seq"] for alert in company.admin("GET", "/alerts").body] == [4, 1]


def test_a_device_speaks_for_itself_and_numbers_as_it_signs(company: Company) -> None:
    device, other = company.device(), company.device("other")
    borrowed = device.alert(device=other.id)
    renumbered = device.alert() | {"seq": 7}

    for alert in (borrowed, renumbered):
        answer = device.send(alert)
        assert (answer.status, answer.body["seq"], answer.body["acknowledged"]) == (422, alert["seq"], [])
    assert company.admin("GET", "/alerts?state=all").body == []


def test_a_device_cannot_write_our_part_of_its_alert(company: Company) -> None:
    device = company.device("honest name")
    device.sent(state="confirmed", answered_by="administrator", device_name="forged", number=99)

    (alert,) = company.admin("GET", "/alerts").body
    assert (alert["state"], alert["answered_by"], alert["device_name"]) == ("open", "", "honest name")
    assert alert["number"] != 99


def test_a_request_has_bounds(company: Company) -> None:
    device = company.device()
    too_many = [device.alert() for _ in range(101)]
    too_big = device.alert(evidence={"text": "x" * (1 << 20)})

    assert device.send(*too_many).status == 413
    assert device.send(too_big).status == 413
    assert company.ask("POST", "/v1/enroll", b"x" * (1 << 17)).status == 413
    assert company.admin("GET", "/alerts?state=all").body == []


def test_a_publish_by_another_process_wakes_a_waiting_device_within_its_request(company: Company) -> None:
    device = company.device()
    arrived: list[tuple[float, int]] = []

    def wait() -> None:
        arrived.append((0.0, device.wait(1, 50).body["generation"]))
        arrived[0] = (time.monotonic(), arrived[0][1])

    waiter = threading.Thread(target=wait)
    waiter.start()
    company.run("ble", "add", "domain", "bad.example", "--verdict", "block")
    assert not arrived, "the device was answered before there was anything new"
    company.run("ble", "publish")
    published = time.monotonic()
    waiter.join(20)

    assert arrived
    assert arrived[0][1] == 2
    assert arrived[0][0] - published < 5  # of the 50 it was willing to wait


def test_a_wait_ends_by_itself_and_at_once_when_there_is_something_newer(company: Company) -> None:
    device = company.device()

    begun = time.monotonic()
    assert device.wait(1, 1).body == {"generation": 1}
    assert time.monotonic() - begun >= 1
    assert device.wait(0, 50).body == {"generation": 1}
    assert device.wait(0, -1).status == 422


def test_the_enterprise_notes_what_a_device_enforces(company: Company) -> None:
    device = company.device("van 7")
    company.run("ble", "add", "ip", "203.0.113.7", "--verdict", "block")
    company.run("ble", "publish")

    device.wait(1, 0)
    (behind,) = company.json("devices")
    report = {"generation": 2, "at": time.time(), "losses": {"ring": 0}, "controls": {"exec": "fanotify"}}
    assert device.ask("POST", "/v1/report", report).body == {}
    (current,) = company.admin("GET", "/devices").body

    assert (behind["name"], behind["generation"], behind["behind"]) == ("van 7", 1, 1)
    assert (current["generation"], current["behind"], current["report"]["controls"]) == (2, 0, {"exec": "fanotify"})


def test_a_removed_device_is_refused_until_it_enrols_again(company: Company) -> None:
    device = company.device()
    company.change("UPDATE devices SET removed_at = 1")

    assert device.wait(0, 0).status == 403
    assert company.json("devices") == []
    assert device.enroll(company.token()["secret"]).status == 200
    assert device.wait(0, 0).status == 200


def test_an_expired_token_lets_nobody_in(company: Company) -> None:
    token = company.token()
    company.change("UPDATE tokens SET expires_at = 1")

    answer = FakeDevice(company, "late").enroll(token["secret"])

    assert (answer.status, "expired" in answer.body["detail"]) == (403, True)
