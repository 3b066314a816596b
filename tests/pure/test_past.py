# SPDX-License-Identifier: Apache-2.0
"""What C keeps of the records is what Python would have kept of their events, and what it holds back is quiet."""

import subprocess
import sys
from collections import OrderedDict, deque

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mamplus_host.kernel._native import lib

from mamplus_host.ble.entry import Kind
from mamplus_host.collector.decode import decode_record
from mamplus_host.collector.lineage import Lineage, Task
from mamplus_host.collector.past import Past
from mamplus_host.events import Event, Exec, Exit, FileChange, FileEvent, Fork
from mamplus_host.kernel import layout
from mamplus_host.pipeline import Pipeline
from mamplus_host.recent import MAX_VALUES, Recent
from mamplus_host.verdicts import Verdict

TASKS, EVENTS = 4, 6
_HASHES = [bytes(32), *(bytes([number]) * 32 for number in range(1, 4))]
_PATHS = [b"", b"relative", b"/bin/a", b"/bin/b\xff", b"/" + b"long" * 63 + b"/x"]
_IS_0, _ADDRESSES = st.just(0), st.sampled_from([bytes(16), bytes(10) + b"\xff\xff\x7f\0\0\1"])
_NUMBERS, _SMALL = [st.integers(0, 3)] * 6, st.integers(1, 3)
_START = st.tuples(*_NUMBERS, st.sampled_from(_HASHES), _IS_0, st.sampled_from(_PATHS))
_CALL = st.tuples(_ADDRESSES, _SMALL, st.sampled_from([6, 17]), st.just(2), _IS_0)
_FIRST_OP = b"\1" + bytes(79) + b"\1"  # behind a head, where a tampering and an access have it
_OWN = {  # what follows the head
    layout.KIND_EXEC: (layout.EXEC, _START),
    layout.KIND_HELD: (layout.EXEC, _START),
    layout.KIND_FORK: (layout.FORK, st.tuples(st.integers(1, 7), _IS_0)),
    layout.KIND_EXIT: (layout.EXIT, st.tuples(_SMALL, _IS_0)),
    layout.KIND_CONNECT: (layout.CONNECT, _CALL),
    layout.KIND_SENDMSG: (layout.CONNECT, _CALL),
    layout.KIND_PACKET: (layout.PACKET, st.tuples(_ADDRESSES, _ADDRESSES, _SMALL, _SMALL, st.just(6), st.just(b""))),
    layout.KIND_DNS: (layout.DNS, st.tuples(_ADDRESSES, st.sampled_from([b"a.example", b"b.example"]))),
    layout.KIND_FILE: (
        layout.ACCESS, st.tuples(*_NUMBERS, st.sampled_from(_HASHES), _IS_0, _SMALL, _IS_0, st.sampled_from(_PATHS)),
    ),
    layout.KIND_TAMPER: (layout.TAMPER, st.tuples(_SMALL, _IS_0, _IS_0)),
}  # fmt: skip


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """A record of any kind about one of a few tasks, files, destinations and names."""
    kind = draw(st.sampled_from(sorted(_OWN)))
    record, own = _OWN[kind]
    tgid, ppid, flags = draw(st.integers(1, 7)), draw(st.integers(0, 7)), draw(st.sampled_from([0, layout.F_UNKNOWN]))
    head = (1, 2, 3, record.size, tgid, ppid, 4, 5, flags, kind, draw(st.sampled_from(Verdict)), 0, b"comm%d" % tgid)
    return bytes(record.pack(*head, *draw(own)))


def start(number: int, path: str = "") -> bytes:
    head = (number, 2, 3, layout.EXEC.size, number, 1, 0, layout.NO_SLOT, 0, layout.KIND_EXEC, 0, 0, b"comm")
    own = (1, number, 3, 4, 5, 6, number.to_bytes(32, "big"), 0, (path or f"/bin/{number}").encode())
    return bytes(layout.EXEC.pack(*head, *own))


def note(past: Past, record: bytes) -> None:
    lib.mamplus_past_note(past.handle, record, len(record))


class Model:
    """What is known of tasks, as events in Python would have it."""

    def __init__(self) -> None:
        self.tasks: OrderedDict[int, Task] = OrderedDict()
        self.forgotten = 0

    def note(self, event: Event) -> None:
        if isinstance(event, FileEvent):
            return
        head = event.head
        known = self.tasks.get(head.tgid) or Task(head.tgid, head.ppid, head.uid, head.comm)
        if isinstance(event, Fork):
            self._put(msgspec.structs.replace(known, tgid=event.child_tgid, ppid=head.tgid, is_alive=True))
        elif isinstance(event, Exit):
            self._put(msgspec.structs.replace(known, is_alive=False))
        elif isinstance(event, Exec):
            of_exec = (event.path, event.sha256, head.flags, event.file, head.boot_ns)
            self._put(Task(head.tgid, head.ppid, head.uid, head.comm, *of_exec))

    def _put(self, task: Task) -> None:
        self.tasks[task.tgid] = task
        self.tasks.move_to_end(task.tgid)
        if len(self.tasks) > TASKS:
            self.tasks.popitem(last=False)
            self.forgotten += 1


@given(st.lists(records(), max_size=40))
def test_tasks_and_the_last_records_are_kept_as_their_events_would_be(told: list[bytes]) -> None:
    past, model, last = Past(tasks=TASKS, events=EVENTS), Model(), deque[Event](maxlen=EVENTS)
    for record in told:
        note(past, record)
        model.note(decode_record(record))
        last.append(decode_record(record))

    lineage = Lineage(past)
    assert [lineage.task(tgid) for tgid in range(9)] == [model.tasks.get(tgid) for tgid in range(9)]
    assert (len(lineage), lineage.forgotten) == (len(model.tasks), model.forgotten)
    assert past.recent() == list(last)


@given(st.lists(st.one_of(records(), st.none()), max_size=40))
def test_what_was_used_is_what_was_told_whenever_it_is_asked_for(told: list[bytes | None]) -> None:
    past, known = Past(tasks=TASKS, events=EVENTS), Recent()
    recent = Recent(past.uses)
    for record in told:
        if record is None:  # somebody asks
            assert len(recent) == len(known)
            continue
        note(past, record)
        known.note(decode_record(record))

    assert list(recent) == list(known)


def test_of_more_programs_than_are_remembered_the_least_recently_used_are_forgotten() -> None:
    past, known = Past(tasks=TASKS, events=EVENTS), Recent()
    most = MAX_VALUES[Kind.SHA256]
    for number in [*range(1, most + 1), 1, *range(most + 1, most + 100)]:
        note(past, start(number))
        known.note(decode_record(start(number)))

    assert list(Recent(past.uses)) == list(known)


@pytest.mark.parametrize("verdict", Verdict, ids=lambda verdict: verdict.name.lower())
@pytest.mark.parametrize("flags", [0, layout.F_UNKNOWN], ids=["no-flag", "flag"])
@pytest.mark.parametrize("kind", [*_OWN])
def test_only_what_the_pipeline_would_pass_over_is_held_back(kind: int, flags: int, verdict: Verdict) -> None:
    layout_of, _own = _OWN[kind]
    head = layout.HEAD.pack(1, 2, 3, layout_of.size, 4, 5, 6, 7, flags, kind, verdict, 0, b"comm")
    record = head + (_FIRST_OP + bytes(layout_of.size))[: layout_of.size - len(head)]
    past, event = Past(tasks=TASKS, events=EVENTS), decode_record(record)
    is_always_told = kind in (layout.KIND_HELD, layout.KIND_FILE)

    def is_wanted(*, everything: bool = False, starts: bool = False) -> bool:
        past.wish(everything=everything, starts=starts)
        return bool(lib.mamplus_past_wants(past.handle, record, len(record)))

    assert is_wanted() == (is_always_told or not Pipeline._is_quiet(event))
    assert is_wanted(starts=True) == (is_wanted() or kind == layout.KIND_EXEC)
    assert is_wanted(everything=True)


@pytest.mark.parametrize(
    "record",
    [start(1)[:-1], start(1) + b"\0", b"", start(1)[:40], start(1)[:48] + b"\x0b" + start(1)[49:],
     start(1)[:48] + b"\xff\xff" + start(1)[50:], start(1)[:50] + b"\x05" + start(1)[51:]],
    ids=["short", "long", "empty", "half-a-head", "no-such-kind", "far-from-any-kind", "no-such-verdict"],
)  # fmt: skip
def test_a_malformed_record_is_handed_on_and_not_kept(record: bytes) -> None:
    past = Past(tasks=TASKS, events=EVENTS)

    note(past, record)

    assert lib.mamplus_past_wants(past.handle, record, len(record))
    assert (past.recent(), past.tasks, past.uses()) == ([], 0, [])


IN_LITTLE_MEMORY = """
import resource, sys
from mamplus_host.collector.past import Past
from mamplus_host.kernel._native import lib

record, past = bytes.fromhex(sys.argv[1]), Past(tasks=1, events=1_000_000)
before = resource.getrlimit(resource.RLIMIT_DATA)
resource.setrlimit(resource.RLIMIT_DATA, (1, before[1]))  # what is there already stays
for _ in range(1_000_000):
    if past.lost:
        break
    lib.mamplus_past_note(past.handle, record, len(record))
resource.setrlimit(resource.RLIMIT_DATA, before)
print(past.lost, len(past.recent()) > 0)
"""


def test_a_record_that_finds_no_memory_is_counted() -> None:
    command = (sys.executable, "-c", IN_LITTLE_MEMORY, start(1).hex())

    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert told.split() == ["1", "True"]


def test_events_of_files_stand_among_the_records_by_their_time() -> None:
    past = Past(tasks=TASKS, events=3)
    for number in (10, 20, 30):
        note(past, start(number))
    past.note(FileChange(boot_ns=25, path="/x", changes=("modify",), tgid=1))

    assert [type(event) for event in past.recent()] == [Exec, FileChange, Exec]


def test_a_start_that_no_ring_told_is_known_as_if_one_had() -> None:
    told, made = Past(tasks=TASKS, events=EVENTS), Past(tasks=TASKS, events=EVENTS)
    record = start(7, "/usr/bin/" + "x" * 246)
    note(told, record)

    made.note(decode_record(record))

    assert Lineage(made).task(7) == Lineage(told).task(7)
    assert made.recent() == told.recent()
