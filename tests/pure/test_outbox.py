# SPDX-License-Identifier: Apache-2.0
"""The spool: nothing is lost silently, in the order that matters, through reopening, full disks and damage."""

import json
import shutil
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mamplus_host.errors import NotPossible
from mamplus_host.outbox import spool as spooling
from mamplus_host.outbox import store
from mamplus_host.outbox.store import Outbox, Sealed
from mamplus_host.verdicts import Escalation, Finding, Severity

DEVICE = "d" * 64


def escalation(alert_id: str, severity: int = 3, evidence: str = "") -> Escalation:
    return Escalation(
        id=alert_id, kind="exec", finding=Finding.SUSPECTED, severity=Severity(severity), at=1.5, boot_ns=1,
        generation=1, rule="rule", summary="summary", evidence={"text": evidence} if evidence else {},
    )  # fmt: skip


def sign(data: bytes) -> bytes:
    return b"signed" + data[-20:]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox" / "outbox.sqlite"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    opened = Outbox(path, max_bytes=1 << 20)
    yield opened
    opened.close()


def seqs(records: list[Sealed]) -> list[int]:
    return [record.seq for record in records]


def test_the_most_severe_goes_first_and_then_the_oldest(outbox: Outbox) -> None:
    for number, severity in enumerate([3, 5, 1, 5, 3]):
        assert outbox.put(escalation(f"a{number}", severity)) == number + 1

    assert seqs(outbox.batch(DEVICE, sign)) == [2, 4, 1, 5, 3]


def test_a_record_carries_the_device_its_number_and_every_field(outbox: Outbox) -> None:
    outbox.put(escalation("a", 4, "why"))
    (record,) = outbox.batch(DEVICE, sign)

    body = json.loads(record.body)
    assert (body["device"], body["seq"], body["id"], body["severity"]) == (DEVICE, 1, "a", 4)
    assert (body["finding"], body["evidence"], body["indicator"]) == ("suspected", {"text": "why"}, None)
    assert record.signature == sign(record.body)


def test_a_retry_sends_the_same_bytes_also_after_a_restart(path: Path) -> None:
    first = Outbox(path, max_bytes=1 << 20)
    first.put(escalation("a"))
    before = first.batch(DEVICE, sign)
    first.close()
    second = Outbox(path, max_bytes=1 << 20)

    assert second.batch(DEVICE, sign) == before
    second.close()


def test_records_of_an_earlier_enrolment_are_signed_anew(outbox: Outbox) -> None:
    outbox.put(escalation("a"))
    assert json.loads(outbox.batch(DEVICE, sign)[0].body)["device"] == DEVICE
    (record,) = outbox.batch("e" * 64, lambda _: b"other")

    assert json.loads(record.body)["device"] == "e" * 64
    assert record.signature == b"other"


def test_a_number_is_not_given_twice_after_everything_was_acknowledged_and_reopened(path: Path) -> None:
    first = Outbox(path, max_bytes=1 << 20)
    numbers = [first.put(escalation(str(n))) for n in range(3)]
    first.acknowledge(numbers)
    first.close()
    second = Outbox(path, max_bytes=1 << 20)

    assert second.put(escalation("x")) == 4
    second.close()


def test_what_is_put_is_on_disk_before_put_returns(path: Path, outbox: Outbox) -> None:
    """What another process sees in a copy of the files, taken without closing, is what a power cut would leave."""
    outbox.put(escalation("a"))
    copy = path.parent / "copy"
    copy.mkdir()
    for part in path.parent.glob("outbox.sqlite*"):
        if not part.name.endswith("-shm"):
            shutil.copy(part, copy / part.name)

    again = Outbox(copy / "outbox.sqlite", max_bytes=1 << 20)
    assert again.counters().queued == 1
    again.close()
    assert outbox._database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_above_the_bound_the_oldest_of_the_lowest_severity_goes(path: Path) -> None:
    outbox = Outbox(path, max_bytes=4 * 1800)
    for name, severity in [("old-high", 4), ("old-low", 2), ("new-low", 2), ("high", 4), ("higher", 5)]:
        outbox.put(escalation(name, severity, "x" * 1000))

    left = [json.loads(record.body)["id"] for record in outbox.batch(DEVICE, sign)]
    assert left == ["higher", "old-high", "high", "new-low"]
    assert (outbox.counters().evicted, outbox.state_of("old-low")) == (1, "evicted")
    outbox.close()


def test_a_batch_fits_into_one_request(outbox: Outbox) -> None:
    for number in range(30):
        outbox.put(escalation(str(number), evidence='"' * 20_000))

    records = outbox.batch(DEVICE, sign)
    wire = sum(len(json.dumps(record.body.decode())) for record in records)
    assert 1 <= len(records) < 30
    assert wire <= store.MAX_BATCH_BYTES
    assert len(outbox.batch(DEVICE, sign, max_bytes=1)) == 1


def test_a_batch_has_at_most_as_many_records_as_the_protocol_allows(outbox: Outbox) -> None:
    for number in range(103):
        outbox.put(escalation(str(number)))

    assert len(outbox.batch(DEVICE, sign)) == 100


def test_evidence_beyond_the_bound_is_left_out_and_said_to_be(outbox: Outbox) -> None:
    outbox.put(escalation("a", evidence="x" * (store.MAX_BODY_BYTES + 1)))
    (record,) = outbox.batch(DEVICE, sign)

    assert json.loads(record.body)["evidence"]["left_out_bytes"] > store.MAX_BODY_BYTES
    assert outbox.counters().trimmed == 1


def test_evidence_with_a_name_that_is_no_unicode_is_kept(outbox: Outbox) -> None:
    outbox.put(escalation("a", evidence="\udcff"))
    (record,) = outbox.batch(DEVICE, sign)

    assert json.loads(record.body)["evidence"]["text"] == "\\udcff"


def test_the_fate_of_an_alert_is_known(outbox: Outbox) -> None:
    for name in ("waits", "stored", "unfit"):
        outbox.put(escalation(name))
    outbox.acknowledge([2])
    outbox.refuse(3)

    states = [outbox.state_of(name) for name in ("waits", "stored", "unfit", "never")]
    assert states == ["queued", "acknowledged", "refused", ""]


def test_only_so_many_fates_are_remembered(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "REMEMBERED", 3)
    for number in range(5):
        outbox.acknowledge([outbox.put(escalation(str(number)))])

    assert [outbox.state_of(str(number)) for number in range(5)] == ["", ""] + ["acknowledged"] * 3


class Stubborn(Outbox):
    """Takes nothing while it `fails` with something."""

    fails: Callable[[Sequence[Escalation]], Exception | None] = staticmethod(lambda _escalations: None)

    def put_many(self, escalations: Sequence[Escalation]) -> list[int]:
        if error := self.fails(escalations):
            raise error
        return super().put_many(escalations)


@pytest.fixture
def spool(path: Path) -> Iterator[tuple[spooling.Spool, Stubborn]]:
    outbox = Stubborn(path, max_bytes=1 << 20)
    spool = spooling.Spool(outbox, lambda: None, most=3)
    yield spool, outbox
    spool.close()
    outbox.close()


def test_what_comes_while_the_disk_is_slow_shares_the_next_sync(spool: tuple[spooling.Spool, Stubborn]) -> None:
    handing, outbox = spool
    is_storing, may_store, together = threading.Event(), threading.Event(), list[int]()

    def slow(escalations: Sequence[Escalation]) -> None:
        together.append(len(escalations))
        is_storing.set()
        assert may_store.wait(20)

    outbox.fails = slow
    handing.hand([escalation("a")])
    assert is_storing.wait(20)
    handing.hand([escalation("b"), escalation("c")])
    may_store.set()
    handing.settle()

    assert (together, handing.stored, seqs(outbox.batch(DEVICE, sign))) == ([1, 2], 3, [1, 2, 3])


def test_what_a_full_disk_keeps_out_is_stored_in_order_when_there_is_room(
    spool: tuple[spooling.Spool, Stubborn],
) -> None:
    handing, outbox = spool
    outbox.fails = lambda _escalations: NotPossible("no room")
    for alert_id in "abcde":
        handing.hand([escalation(alert_id)])
        handing.settle()
    assert (handing.unstored, handing.lost, outbox.counters().put) == (3, 2, 0)

    outbox.fails = lambda _escalations: None
    handing.retry()
    handing.settle()

    assert (handing.unstored, handing.stored) == (0, 3)
    assert [json.loads(one.body)["id"] for one in outbox.batch(DEVICE, sign)] == ["c", "d", "e"]


def test_one_that_can_never_be_stored_holds_up_no_other(spool: tuple[spooling.Spool, Stubborn]) -> None:
    handing, outbox = spool
    outbox.fails = lambda escalations: KeyError("bad") if "bad" in [one.id for one in escalations] else None

    handing.hand([escalation("a"), escalation("bad"), escalation("b")])
    handing.settle()

    assert [outbox.state_of(alert_id) for alert_id in ("a", "bad", "b")] == ["queued", "", "queued"]
    assert (handing.stored, handing.lost, handing.faults > 0) == (2, 1, True)


def test_a_damaged_spool_is_set_aside_and_its_numbers_are_not_used_again(path: Path) -> None:
    first = Outbox(path, max_bytes=1 << 20)
    for number in range(200):
        first.put(escalation(str(number), evidence="x" * 200))
    first.close()
    data = bytearray(path.read_bytes())
    data[4096 : len(data) // 2] = b"\xff" * (len(data) // 2 - 4096)
    path.write_bytes(data)
    second = Outbox(path, max_bytes=1 << 20)

    assert "set aside as 'outbox.sqlite.damaged'" in second.note
    assert second.put(escalation("x")) > 1_000_000
    assert path.with_name("outbox.sqlite.damaged").exists()
    second.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.kernel
def test_a_full_disk_is_an_error_that_is_counted_and_keeps_what_is_there(small_disk: Path) -> None:
    outbox = Outbox(small_disk / "outbox.sqlite", max_bytes=1 << 30)

    def fill() -> None:
        for number in range(10_000):
            outbox.put(escalation(str(number), evidence="x" * 2000))

    with pytest.raises(NotPossible, match="what is queued stays"):
        fill()
    counters = outbox.counters()
    put = counters.put
    assert put > 50
    assert (counters.queued, counters.lost) == (put, 1)
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    assert outbox.put(escalation("after")) == put + 1
    assert outbox.counters().queued == put + 1
    outbox.close()


class Spool(RuleBasedStateMachine):
    """Every put is acknowledged, refused, evicted or still there; numbers are unique; the order holds."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="mamplus-outbox-"))
        self.severity: dict[int, int] = {}
        self.settled: set[int] = set()
        self.sent: dict[int, Sealed] = {}

    @initialize(max_bytes=st.integers(1, 12_000))
    def begin(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.outbox = Outbox(self.folder / "outbox.sqlite", max_bytes=max_bytes)

    @rule(severity=st.integers(1, 5), size=st.integers(0, 2000))
    def put(self, severity: int, size: int) -> None:
        seq = self.outbox.put(escalation(f"a{len(self.severity)}", severity, "x" * size))
        assert seq > max(self.severity, default=0)
        self.severity[seq] = severity

    @rule(count=st.integers(1, 5), acknowledged=st.integers(0, 5))
    def send(self, count: int, acknowledged: int) -> None:
        records = self.outbox.batch(DEVICE, sign, max_count=count)
        order = [(-self.severity[record.seq], record.seq) for record in records]
        assert order == sorted(order)
        for record in records:
            assert self.sent.setdefault(record.seq, record) == record
        done = seqs(records)[:acknowledged]
        assert not self.settled & set(done)
        self.outbox.acknowledge([*done, *done, 10**9])  # twice, and a number that never was
        self.settled |= set(done)

    @rule()
    def refuse_the_first(self) -> None:
        for record in self.outbox.batch(DEVICE, sign, max_count=1):
            self.outbox.refuse(record.seq)
            self.settled.add(record.seq)

    @rule()
    def reopen(self) -> None:
        self.outbox.close()
        self.outbox = Outbox(self.folder / "outbox.sqlite", max_bytes=self.max_bytes)

    @invariant()
    def everything_is_accounted_for(self) -> None:
        if not hasattr(self, "outbox"):
            return
        counters = self.outbox.counters()
        assert counters.put == len(self.severity)
        assert counters.put == counters.acknowledged + counters.refused + counters.evicted + counters.queued
        assert counters.acknowledged + counters.refused == len(self.settled)
        assert 0 <= counters.queued_bytes <= self.max_bytes
        with sqlite3.connect(self.folder / "outbox.sqlite") as other:
            (rows, size) = other.execute("SELECT count(*), total(bytes) FROM record").fetchone()
        other.close()
        assert (rows, size) == (counters.queued, counters.queued_bytes)

    def teardown(self) -> None:
        if hasattr(self, "outbox"):
            self.outbox.close()
        shutil.rmtree(self.folder)


TestSpool = Spool.TestCase
TestSpool.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
