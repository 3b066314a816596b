# SPDX-License-Identifier: Apache-2.0
"""The power goes after every step of everything: the next start finishes or undoes it, never both, nothing twice."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mamplus_host.errors import ActionFailed
from mamplus_host.events import Exec, File, FileChange, Head
from mamplus_host.executor.inforce import InForceStore
from mamplus_host.executor.plan import Action
from mamplus_host.policy.actions import ActionRules, Disarm
from mamplus_host.verdicts import ActionKind, Decision, Finding, Indicator, Verdict

from .acting import Device, carry_out, carry_out_all

FILE = File(dev=1, ino=2, size=3, ctime_s=4, ctime_ns=5)
BAD = Indicator("sha256", "ab" * 32)
DAY = 86_400
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # thousands of syncs: a disk would take an hour for them


def decided(decision_id: str, path: Path) -> Decision:
    head = Head(boot_ns=7, cgroup_id=1, generation=1, tgid=500, ppid=2, uid=0, slot=0, flags=0, verdict=Verdict.BLOCK,
                comm="x")  # fmt: skip
    event = Exec(head=head, file=FILE, sha256=BAD.value, path=str(path))
    return Decision(id=decision_id, finding=Finding.CONFIRMED, event=event, rule="ble", reason="", indicator=BAD)


def damaged(decision_id: str, path: Path) -> Decision:
    change = FileChange(boot_ns=1, path=str(path), changes=("modify",), tgid=0)
    return Decision(id=decision_id, finding=Finding.CONFIRMED, event=change, rule="protected-file", reason="")


def act(device: Device, decision_id: str, kind: ActionKind, path: Path, ttl_s: int = 0) -> Callable[[], object]:
    decision = (damaged if kind is ActionKind.RESTORE else decided)(decision_id, path)
    action = Action(kind=kind, boot_ns=1, path=str(path) if kind is ActionKind.RESTORE else "", ttl_s=ttl_s)
    return lambda: carry_out(device.executor, decision, [action])


def look(path: Path) -> tuple[str, int] | None:
    return (path.read_text(), stat.S_IMODE(path.stat().st_mode)) if path.exists() else None


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    one = Device(tmp_path)
    yield one
    one.close()


def settle(device: Device) -> None:
    """The next agent starts, and takes up what there is."""
    device.start()
    device.recover()
    assert device.is_chained()
    assert device.journal.open_intents() == []


VOLATILE = ActionKind.RADIO
KINDS = [ActionKind.REFUSE, ActionKind.RADIO, ActionKind.LOCK, ActionKind.KILL, ActionKind.RESTORE]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_after_any_step_of_doing_leaves_old_or_new_and_the_journal_says_which(
    tmp_path: Path, kind: ActionKind
) -> None:
    cut_at, is_cut = 0, True
    while is_cut:
        cut_at += 1
        device = Device(tmp_path / str(cut_at))
        path = prepared(device, kind)
        old = look(path)

        is_cut = device.run(act(device, "A", kind, path), cut_at=cut_at)
        if is_cut:
            settle(device)

        said, new = device.says().get(f"A-{kind}"), look(path)
        assert said in (None, "done", "failed")
        assert (new != old) == (said == "done")
        assert device.in_force() == ({f"A-{kind}"} if said == "done" and kind in KINDS[:3] else set())
        if said == "done":
            assert [seen.is_right for seen in device.executor.verify("A")] == [True]
        device.close()
    assert cut_at > 4


def prepared(device: Device, kind: ActionKind) -> Path:
    path = device.file("one")
    if kind is ActionKind.RESTORE:
        device.vault.protect(path)
        path.write_text("damaged")
    return path


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not ActionKind.KILL])
def test_a_cut_after_any_step_of_undoing_ends_undone(tmp_path: Path, kind: ActionKind) -> None:
    cut_at, is_cut = 0, True
    while is_cut:
        cut_at += 1
        device = Device(tmp_path / str(cut_at))
        path = prepared(device, kind)
        old = look(path)
        device.run(act(device, "A", kind, path))
        new = look(path)

        is_cut = device.run(lambda: device.executor.undo("A"), cut_at=cut_at)  # noqa: B023 - run before the next turn
        if is_cut:
            settle(device)

        is_undone = device.says()[f"A-{kind}"] == "undone"
        assert look(path) == (old if is_undone else new)
        assert is_undone or is_cut
        assert (f"A-{kind}" in device.in_force()) == (not is_undone and kind is not ActionKind.RESTORE)
        device.close()
    assert cut_at > 4


def test_the_power_may_go_again_and_again_while_the_start_finishes(tmp_path: Path) -> None:
    device = Device(tmp_path)
    path = device.file("one")
    assert device.run(act(device, "A", ActionKind.REFUSE, path), cut_at=4)

    cut_at = 1
    while True:
        device.start()
        if not device.recover(cut_at=cut_at):
            break
        cut_at += 1

    assert cut_at > 3
    assert look(path) == ("refuse", 0o400)
    assert device.says() == {"A-refuse": "done"}
    assert sum(record.kind == "outcome" for record in device.journal.records()) == 1
    device.close()


def test_what_has_ended_is_not_ended_again_after_a_cut(tmp_path: Path) -> None:
    device = Device(tmp_path)
    path, another = device.file("one"), device.file("other", "another by now")
    assert device.run(act(device, "A", ActionKind.KILL, path), cut_at=5)
    assert not path.exists()
    another.rename(path)

    settle(device)

    assert path.read_text() == "another by now"
    device.close()


def test_two_actions_with_one_effect_end_with_the_last_of_them(device: Device) -> None:
    path = device.file("one")
    device.run(act(device, "A", ActionKind.REFUSE, path))
    device.run(act(device, "B", ActionKind.REFUSE, path))

    device.run(lambda: device.executor.undo("A"))
    assert look(path) == ("refuse", 0o400)

    device.run(lambda: device.executor.undo("B"))
    assert look(path) == ("as it was", 0o640)


def test_two_decisions_of_one_batch_about_one_thing_are_taken_one_after_the_other(device: Device) -> None:
    path, action = device.file("one"), (Action(kind=ActionKind.REFUSE, boot_ns=1),)
    device.run(lambda: carry_out_all(device.executor, [(decided("A", path), action), (decided("B", path), action)]))

    device.run(lambda: device.executor.undo("A"))
    assert look(path) == ("refuse", 0o400)

    device.run(lambda: device.executor.undo("B"))
    assert look(path) == ("as it was", 0o640)


def test_what_is_allowed_by_the_enterprise_is_undone_and_seen_to_be(device: Device) -> None:
    path, other = device.file("one"), device.file("two")
    device.run(act(device, "A", ActionKind.REFUSE, path))
    device.run(act(device, "B", ActionKind.LOCK, other))

    device.run(lambda: device.executor.resolve_held({BAD: Verdict.ALLOW}.__getitem__))

    assert (look(path), look(other)) == (("as it was", 0o640), ("as it was", 0o640))
    assert device.in_force() == set()
    assert [(seen.wanted, seen.seen) for seen in device.executor.verify("A")] == [("undone", "undone")]


def test_what_somebody_else_changed_meanwhile_is_told_and_not_called_undone(device: Device) -> None:
    path = device.file("one")
    device.run(act(device, "A", ActionKind.REFUSE, path))
    path.chmod(0o600)
    path.write_text("somebody else's")

    assert [(seen.wanted, seen.seen) for seen in device.executor.verify("A")] == [("done", "between")]


def test_what_is_not_seen_to_be_undone_is_not_called_so(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    path = device.file("one")
    device.run(act(device, "A", ActionKind.REFUSE, path))
    monkeypatch.setattr(device.executor._runner._deeds[ActionKind.REFUSE], "undo", lambda _facts: "done, honestly")

    (outcome,) = device.executor.undo("A")

    assert (outcome.state, "seen as 'done'" in outcome.detail) == ("failed", True)
    assert device.in_force() == {"A-refuse"}


def test_a_time_limit_ends_by_itself_also_while_the_device_was_off(device: Device) -> None:
    path = device.file("one")
    device.run(act(device, "A", ActionKind.REFUSE, path, ttl_s=DAY))
    device.clock.pass_s(DAY / 2)
    device.run(device.executor.expire)
    assert look(path) == ("refuse", 0o400)

    device.close()
    device.reboot(off_s=DAY / 2)
    settle(device)

    assert look(path) == ("as it was", 0o640)
    assert device.says() == {"A-refuse": "undone"}


def test_what_a_restart_took_away_is_put_back_in_force(device: Device) -> None:
    path = device.file("one", is_volatile=True)
    device.run(act(device, "A", ActionKind.RADIO, path, ttl_s=DAY))
    device.close()

    device.reboot(off_s=60)
    settle(device)

    assert look(path) == ("radio", 0o400)
    assert device.in_force() == {"A-radio"}


def test_an_undoing_that_fails_is_tried_again_but_not_at_every_tick(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = device.file("one")
    device.run(act(device, "A", ActionKind.REFUSE, path, ttl_s=60))
    device.clock.pass_s(61)
    deed = device.executor._runner._deeds[ActionKind.REFUSE]

    def fail(_facts: object) -> str:
        raise ActionFailed("not now")

    with monkeypatch.context() as patch:
        patch.setattr(deed, "undo", fail)
        tries = [device.executor.expire() for _ in range(20)]
    assert sum(map(len, tries)) == 1

    device.clock.pass_s(61)
    device.run(device.executor.expire)
    assert look(path) == ("as it was", 0o640)


def test_a_full_disk_leaves_what_could_not_be_noted_undone(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    path = device.file("one")

    def full(*_arguments: object, **_more: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr("mamplus_host.executor.inforce.write_whole", full)
        device.run(act(device, "A", ActionKind.REFUSE, path))

    assert look(path) == ("as it was", 0o640)
    assert device.says() == {"A-refuse": "failed"}


def test_what_this_release_does_not_know_keeps_nothing_else_from_being_finished(device: Device) -> None:
    path = device.file("one")
    device.journal.append("intent", "A", {"action": "of-a-later-release", "id": "A-of-a-later-release", "facts": {}})
    assert device.run(act(device, "B", ActionKind.REFUSE, path), cut_at=4)

    settle(device)

    assert look(path) == ("refuse", 0o400)
    assert device.says() == {"A-of-a-later-release": "failed", "B-refuse": "done"}


def test_what_ended_in_time_is_told_though_the_disk_is_full(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    path = device.file("one")
    device.run(act(device, "A", ActionKind.REFUSE, path, ttl_s=60))
    device.clock.pass_s(61)

    def full(_self: object) -> None:
        raise ActionFailed("cannot note what is in force")

    monkeypatch.setattr(InForceStore, "tick", full)

    assert [outcome.state for outcome in device.executor.expire()] == ["undone"]


def test_what_stands_can_be_taken_back_though_the_note_of_it_was_damaged(device: Device) -> None:
    path = device.file("one")
    device.run(act(device, "A", ActionKind.REFUSE, path))
    facts = device.executor._store.of("A")[0].facts
    (device.config.state / "actions.json").write_text("{")
    device.start()
    with pytest.raises(ActionFailed, match="no longer in force"):
        device.executor.undo("A")

    device.executor.adopt({"A-refuse": (facts, 0), "no-action": ({}, 0)})

    assert [outcome.state for outcome in device.executor.undo("A-refuse")] == ["undone"]
    assert look(path) == ("as it was", 0o640)


def test_one_sync_serves_all_actions_of_a_batch(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = 0
    sync = os.fsync

    def counted(descriptor: int) -> None:
        nonlocal syncs
        syncs += 1
        sync(descriptor)

    device.rules = ActionRules(disarm=Disarm(programs=50))
    batch = [(decided(f"A{n}", device.file(f"f{n}")), (Action(kind=ActionKind.KILL, boot_ns=1),)) for n in range(50)]
    monkeypatch.setattr("mamplus_host.executor.journal.os.fsync", counted)
    outcomes = carry_out_all(device.executor, batch)

    assert [[one.state for one in some] for some in outcomes] == [["done"]] * 50
    assert syncs == 1


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("act"), st.sampled_from(KINDS), st.integers(0, 2), st.sampled_from([0, 100, 5000])),
        st.tuples(st.just("undo"), st.integers(0, 6)),
        st.tuples(st.just("pass"), st.integers(1, 3000)),
        st.tuples(st.just("reboot"), st.integers(1, 3000)),
        st.tuples(st.just("allow")),
        st.tuples(st.just("restart")),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=1000, suppress_health_check=list(HealthCheck))
@given(schedule=STEPS, cuts=st.lists(st.integers(0, 14), min_size=10, max_size=10))
@pytest.mark.timeout(900)  # 1,000 schedules that sync a disk which others may use
def test_no_schedule_of_actions_undoing_time_cuts_and_restarts_leaves_anything_between(
    schedule: list[tuple[object, ...]], cuts: list[int]
) -> None:
    """After each start what is in force is done on the device, and what is not is as it was."""
    with TemporaryDirectory(dir=MEMORY) as name:
        device = Device(Path(name))
        paths = {
            kind: [device.file(f"{kind}{n}", is_volatile=kind is ActionKind.RADIO) for n in range(3)] for kind in KINDS
        }
        for path in paths[ActionKind.RESTORE]:
            device.vault.protect(path)
        made = list[str]()
        for what, cut_at in zip(schedule, cuts, strict=False):
            if device.run(lambda: play(device, paths, made, what), cut_at=cut_at):  # noqa: B023
                settle(device)
            settled(device, paths)
        device.close()


def play(device: Device, paths: dict[ActionKind, list[Path]], made: list[str], what: tuple[object, ...]) -> None:
    match what:
        case ("act", ActionKind() as kind, int(which), int(ttl_s)):
            path = paths[kind][which]
            if kind is ActionKind.RESTORE:
                path.write_text("damaged")
            made.append(f"A{len(made)}")
            act(device, made[-1], kind, path, ttl_s)()
        case ("undo", int(which)) if which < len(made):
            with contextlib.suppress(ActionFailed):
                device.executor.undo(made[which])
        case ("pass", int(seconds)):
            device.clock.pass_s(seconds)
            device.executor.expire()
        case ("reboot", int(off_s)):
            device.close()
            device.reboot(off_s)
            device.start()
            device.executor.recover()
        case ("restart",):
            device.close()
            device.start()
            device.executor.recover()
        case ("allow",):
            device.executor.resolve_held({BAD: Verdict.ALLOW}.__getitem__)


def settled(device: Device, paths: dict[ActionKind, list[Path]]) -> None:
    assert device.is_chained()
    assert device.journal.open_intents() == []
    on = {(entry.kind, entry.facts["path"]): entry for entry in device.executor._store.all()}
    for kind in KINDS[:3]:
        for path in paths[kind]:
            wanted = (kind.value, 0o400) if (kind, str(path)) in on else ("as it was", 0o640)
            assert look(path) == wanted
    states = device.says()
    assert {entry.id for entry in on.values()} <= {key for key, state in states.items() if state == "done"}
    for entry in device.executor._store.all():
        assert device.executor._store.left_s(entry) != 0, f"the time of {entry.id} is over"
