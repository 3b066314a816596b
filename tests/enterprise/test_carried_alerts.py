# SPDX-License-Identifier: Apache-2.0
"""The way back on a stick: a real spool, sealed, and what the enterprise makes of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mamplus_enterprise.alerts.carried import Imported, import_file
from mamplus_enterprise.errors import Answered, Forbidden, Malformed, Unknown
from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.store import Store
from mamplus_host.errors import ConfigInvalid
from mamplus_host.outbox.export import Export, export, pending
from mamplus_host.outbox.store import Outbox
from mamplus_host.sealed import seal
from mamplus_host.verdicts import Escalation, Finding, Severity
from tests.enterprise.company import Company, FakeDevice

KEY = X25519PrivateKey.generate()


class Carrier:
    """A device's spool, and an enterprise to carry it to."""

    def __init__(self, company: Company, folder: Path) -> None:
        self.company, self.device = company, company.device()
        self.spool = folder / "outbox.sqlite"
        self.outbox = Outbox(self.spool, max_bytes=1 << 20)
        self.store = Store(Home.open(company.dir))

    def put(self, *names: str, severity: int = 3) -> None:
        for name in names:
            self.outbox.put(
                Escalation(
                    id=name, kind="exec", finding=Finding.SUSPECTED, severity=Severity(severity), at=1.0, boot_ns=1,
                    generation=1, rule="r", summary='with "quotes" and ünïcode',
                )
            )  # fmt: skip

    def exported(self) -> Export:
        return export(self.spool, self.device.id, self.device.key.sign, now_s=1.0)

    def carry(self, made: Export | None = None) -> Imported:
        data = seal(msgspec.json.encode(made or self.exported()), KEY.public_key().public_bytes_raw())
        return import_file(self.store, data, [KEY], who="test")

    def stored(self) -> list[Any]:
        return [row["id"] for row in self.company.admin("GET", "/alerts?state=all").body]


@pytest.fixture
def carrier(company: Company, tmp_path: Path) -> Iterator[Carrier]:
    made = Carrier(company, tmp_path)
    yield made
    made.outbox.close()
    made.store.close()


def test_what_waits_arrives_on_a_stick_beside_an_open_spool_and_stays_queued(carrier: Carrier) -> None:
    carrier.put("A", "B")
    carrier.put("C", severity=5)

    done = carrier.carry()

    assert (done.device, done.stored, done.known, done.refused) == ("scanner", 3, 0, 0)
    assert sorted(carrier.stored()) == ["A", "B", "C"]
    assert [one.seq for one in pending(carrier.spool)] == [3, 1, 2], "the most severe first; nothing is gone"
    assert carrier.outbox.counters().queued == 3


def test_the_network_and_the_stick_carry_the_same_bytes(carrier: Carrier) -> None:
    carrier.put("A", "B")

    by_stick = [(one.seq, one.body.encode()) for one in carrier.exported().alerts]

    assert by_stick == [(one.seq, one.body) for one in carrier.outbox.batch(carrier.device.id, carrier.device.key.sign)]


def test_more_than_a_request_may_carry_arrives_once_each(carrier: Carrier) -> None:
    carrier.put(*(f"N{n}" for n in range(250)))

    assert carrier.carry().stored == 250
    carrier.put("late")
    again = carrier.carry()
    assert (again.stored, again.known) == (1, 250)


def test_a_file_imported_twice_is_one_clear_error_and_stores_nothing(carrier: Carrier) -> None:
    carrier.put("A")
    made = carrier.exported()
    carrier.carry(made)

    with pytest.raises(Answered, match="imported before"):
        carrier.carry(made)

    assert carrier.stored() == ["A"]


def test_an_alert_that_its_device_did_not_sign_is_refused_and_the_others_stay(carrier: Carrier) -> None:
    carrier.put("A", "B")
    made = carrier.exported()
    forged = msgspec.structs.replace(made.alerts[0], body=made.alerts[0].body.replace('"A"', '"Z"'))

    done = carrier.carry(msgspec.structs.replace(made, alerts=[forged, made.alerts[1]]))

    assert (done.stored, done.refused) == (1, 1)
    assert "signature" in done.refusal
    assert carrier.stored() == ["B"]


def test_a_file_in_which_nothing_fits_is_an_error(carrier: Carrier) -> None:
    carrier.put("A")
    made = carrier.exported()
    other = FakeDevice(carrier.company, "other")
    forged = [msgspec.structs.replace(one, signature=other.sign(one.body.encode())) for one in made.alerts]

    with pytest.raises(Malformed, match="none of the 1 alerts can be stored"):
        carrier.carry(msgspec.structs.replace(made, alerts=forged))


def test_a_device_that_is_unknown_or_was_removed_is_said_to_be(carrier: Carrier) -> None:
    carrier.put("A")
    with pytest.raises(Unknown, match="unknown here"):
        carrier.carry(msgspec.structs.replace(carrier.exported(), device="f" * 64))
    carrier.company.change("UPDATE devices SET removed_at = 1")
    with pytest.raises(Forbidden, match="was removed"):
        carrier.carry()


def test_what_is_no_export_of_a_device_is_refused(carrier: Carrier) -> None:
    data = seal(b'{"hello": 1}', KEY.public_key().public_bytes_raw())

    with pytest.raises(Malformed, match="no export of a device"):
        import_file(carrier.store, data, [KEY], who="test")
    with pytest.raises(ConfigInvalid, match="which is not here"):
        import_file(carrier.store, data, [X25519PrivateKey.generate()], who="test")


def test_a_spool_that_is_not_there_has_nothing_waiting(tmp_path: Path) -> None:
    assert list(pending(tmp_path / "none.sqlite")) == []
