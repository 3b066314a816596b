# SPDX-License-Identifier: Apache-2.0
"""From a decision to actions: what is planned, and against whom never."""

from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mamplus_host.config import Agent, Config, SuspicionPolicy
from mamplus_host.errors import ConfigInvalid
from mamplus_host.events import (
    Connect,
    DnsQuery,
    Event,
    Exec,
    Exit,
    File,
    FileAccess,
    FileChange,
    Fork,
    Head,
    MassRewrite,
    Packet,
)
from mamplus_host.executor.plan import Action, plan, target_of
from mamplus_host.executor.storage import mounts
from mamplus_host.policy import policy
from mamplus_host.policy.actions import ActionRules
from mamplus_host.verdicts import ActionKind, Decision, Finding, Verdict

HERE = IPv4Address("127.0.0.1")
FILE = File(dev=1, ino=2, size=3, ctime_s=4, ctime_ns=5)


def head(tgid: int) -> Head:
    return Head(boot_ns=7, cgroup_id=1, generation=1, tgid=tgid, ppid=2, uid=0, slot=0, flags=0,
                verdict=Verdict.BLOCK, comm="x")  # fmt: skip


def events(tgid: int) -> list[Event]:
    return [
        Exec(head=head(tgid), file=FILE, sha256="ab" * 32, path="/x"),
        Fork(head=head(tgid), child_tgid=tgid),
        Exit(head=head(tgid), exit_code=0),
        Connect(head=head(tgid), address=HERE, port=1, protocol=6, unconnected=False),
        Packet(head=head(tgid), source=HERE, destination=HERE, sport=1, dport=2, protocol=6),
        DnsQuery(head=head(tgid), server=HERE, name="bad.example"),
        FileChange(boot_ns=7, path="/protected", changes=("modify",), tgid=tgid),
        FileAccess(head=head(tgid), file=FILE, sha256="ab" * 32, op="map-exec", path="/lib"),
        FileAccess(head=head(tgid), file=FILE, sha256="ab" * 32, op="open", path="/x"),
    ]


def decided(event: Event, finding: Finding, *, in_kernel: bool = False) -> Decision:
    return Decision(id="01" * 13, finding=finding, event=event, rule="ble", reason="", in_kernel=in_kernel)


EXEC, CONNECT, CHANGE, MAPPED, OPENED = (events(500)[place] for place in (0, 3, 6, 7, 8))
WATCH = Config(suspicion=SuspicionPolicy(hold="watch"))


@pytest.mark.parametrize(
    ("decision", "config", "kinds"),
    [
        (decided(EXEC, Finding.CONFIRMED, in_kernel=True), Config(), [ActionKind.REFUSED]),
        (decided(EXEC, Finding.CONFIRMED), Config(), [ActionKind.KILL]),
        (decided(EXEC, Finding.SUSPECTED), Config(), [ActionKind.FREEZE]),
        (decided(EXEC, Finding.SUSPECTED), WATCH, []),
        (decided(EXEC, Finding.SUSPECTED, in_kernel=True), Config(), [ActionKind.REFUSED]),
        (decided(EXEC, Finding.NOTHING), Config(), []),
        (decided(CONNECT, Finding.CONFIRMED, in_kernel=True), Config(), [ActionKind.REFUSED]),
        (decided(CONNECT, Finding.SUSPECTED), Config(), []),
        (decided(MAPPED, Finding.CONFIRMED, in_kernel=True), Config(), [ActionKind.REFUSED]),
        (decided(MAPPED, Finding.CONFIRMED), Config(), [ActionKind.KILL]),
        (decided(OPENED, Finding.CONFIRMED), Config(), []),
        (decided(CHANGE, Finding.CONFIRMED), Config(), [ActionKind.RESTORE]),
        (decided(CHANGE, Finding.SUSPECTED), WATCH, [ActionKind.RESTORE]),
    ],
    ids=[
        "refused", "running", "suspected", "watch-only", "suspected-and-refused", "nothing", "connect",
        "connect-suspected", "library-refused", "library-running", "opened", "file", "file-suspected",
    ],
)  # fmt: skip
def test_each_decision_has_its_answer(decision: Decision, config: Config, kinds: list[ActionKind]) -> None:
    assert [action.kind for action in plan(decision, config)] == kinds


def test_an_action_carries_what_is_needed_to_recognize_its_target() -> None:
    assert plan(decided(EXEC, Finding.CONFIRMED), Config()) == (Action(kind=ActionKind.KILL, boot_ns=7, tgid=500),)
    assert plan(decided(CHANGE, Finding.CONFIRMED), Config()) == (
        Action(kind=ActionKind.RESTORE, boot_ns=7, path="/protected"),
    )


def test_monitor_mode_plans_the_same_and_marks_it_as_not_to_be_done() -> None:
    monitor = Config(agent=Agent(mode="monitor"))
    for event in events(500):
        for finding in Finding:
            decision = decided(event, finding)
            enforced, watched = plan(decision, Config()), plan(decision, monitor)
            assert [a.kind for a in enforced] == [a.kind for a in watched]
            assert not any(a.dry_run for a in enforced)
            assert all(a.dry_run for a in watched)


@settings(max_examples=500)
@given(
    tgid=st.integers(0, 6),
    guarded=st.frozensets(st.integers(0, 6)),
    finding=st.sampled_from(Finding),
    in_kernel=st.booleans(),
    which=st.integers(0, 6),
)
def test_no_action_ever_aims_at_a_guarded_process_or_at_pid_0_or_1(
    tgid: int, guarded: frozenset[int], finding: Finding, in_kernel: bool, which: int
) -> None:
    decision = decided(events(tgid)[which], finding, in_kernel=in_kernel)

    aimed = {a.tgid for a in plan(decision, Config(), guarded) if a.kind in (ActionKind.KILL, ActionKind.FREEZE)}

    assert not aimed & (guarded | {0, 1})
    assert aimed <= {tgid}


# --- what the policy says ------------------------------------------------------------------------

K = ActionKind


@pytest.mark.parametrize(
    ("rules", "decision", "kinds"),
    [
        ({"confirmed": {"exec": ["kill-tree", "kill"]}}, decided(EXEC, Finding.CONFIRMED), [K.KILL]),
        ({"confirmed": {"exec": ["kill-cgroup", "freeze"]}}, decided(EXEC, Finding.CONFIRMED), [K.FREEZE]),
        ({"confirmed": {"exec": []}}, decided(EXEC, Finding.CONFIRMED), []),
        ({"confirmed": {"exec": ["kill", "evidence", "notify"]}}, decided(EXEC, Finding.CONFIRMED),
         [K.NOTIFY, K.EVIDENCE, K.KILL]),
        ({"confirmed": {"exec": ["kill", "evidence"]}}, decided(EXEC, Finding.CONFIRMED, in_kernel=True),
         [K.REFUSED, K.EVIDENCE]),
        ({"suspected": {"connect": ["refuse", "cut"]}}, decided(CONNECT, Finding.SUSPECTED), [K.CUT, K.REFUSE]),
        ({"suspected": {"exec": ["kill"]}}, decided(EXEC, Finding.CONFIRMED), [K.KILL]),
        ({"confirmed": {"access": ["kill"]}}, decided(OPENED, Finding.CONFIRMED), [K.KILL]),
        ({"confirmed": {"file": []}}, decided(CHANGE, Finding.CONFIRMED), []),
    ],
    ids=["mildest", "milder", "none", "tell-first", "kernel-holds", "network", "else-built-in", "access", "file"],
)  # fmt: skip
def test_the_policy_chooses_and_the_mildest_that_holds_is_planned(
    rules: dict[str, object], decision: Decision, kinds: list[ActionKind]
) -> None:
    said = msgspec.convert(rules, ActionRules)

    assert [action.kind for action in plan(decision, Config(), rules=said)] == kinds


def test_harder_ones_follow_in_order_should_the_mild_one_fail() -> None:
    said = ActionRules(confirmed={"exec": ("kill-cgroup", "kill-tree", "freeze", "notify")})

    (_notify, freeze) = plan(decided(EXEC, Finding.CONFIRMED), Config(), rules=said)

    assert freeze.otherwise == (K.KILL_TREE, K.KILL_CGROUP)


def test_what_a_policy_says_to_watch_only_overrules_what_the_device_is_configured_for() -> None:
    said = ActionRules(suspected={"exec": ()})
    assert plan(decided(EXEC, Finding.SUSPECTED), Config(), rules=said) == ()
    said = ActionRules(suspected={"exec": ("freeze",)})
    assert [one.kind for one in plan(decided(EXEC, Finding.SUSPECTED), WATCH, rules=said)] == [K.FREEZE]


def test_time_limits_are_the_policys_else_the_devices() -> None:
    (freeze,) = plan(decided(EXEC, Finding.SUSPECTED), Config(suspicion=SuspicionPolicy(deadline_s=100)))
    assert freeze.ttl_s == 100
    (freeze,) = plan(decided(EXEC, Finding.SUSPECTED), Config(), rules=ActionRules(ttl_s={"freeze": 60}))
    assert freeze.ttl_s == 60


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ({"confirmed": {"exec": ["kill", "kill"]}}, "names one twice"),
        ({"confirmed": {"exec": ["restore"]}}, "restore puts protected files back"),
        ({"confirmed": {"packet": ["kill"]}}, "no evidence there"),
        ({"ttl_s": {"kill": 100}}, "holds nothing that could end"),
        ({"spared": {"programs": ["till"]}}, "absolute path"),
        ({"spared": {"units": ["till"]}}, "system unit's name"),
        ({"confirmed": {"exec": ["wipe"]}}, "not as docs/policy.md has it"),
        ({"confirmed": {"boot": ["kill"]}}, "not as docs/policy.md has it"),
        ({"ttl_s": {"freeze": 5}}, "not as docs/policy.md has it"),
        ({"confirmed": {"connect": ["mount"]}}, "connect has none; want it under exec"),
        ({"suspected": {"dns": ["usb"]}}, 'dns has none; .* or actions.usb "new"'),
        ({"radio": {"last_road": True}}, "ttl_s.radio of 0 s"),
        ({"radio": {"last_road": True}, "ttl_s": {"radio": 100_000}}, "want a limit up to 86400 s"),
        ({"radio": {"off": ["lte"]}}, "not as docs/policy.md has it"),
        ({"mount": "burn"}, "not as docs/policy.md has it"),
        ({"disarm": {"programs": 1}}, "not as docs/policy.md has it"),
        ({"disarm": {"never": 1}}, "not as docs/policy.md has it"),
    ],
)  # fmt: skip
def test_what_no_device_should_follow_is_refused_with_its_place(rules: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigInvalid, match=complaint):
        policy.parse(msgspec.json.encode({"actions": rules}))


def test_a_policy_with_actions_is_spelled_and_read_back_the_same() -> None:
    said = policy.Policy(version=3, actions=ActionRules(confirmed={"exec": ("kill-tree",)}, ttl_s={"isolate": 3600}))
    assert policy.parse(policy.encode(said)) == said


def test_a_deed_is_told_what_the_event_says_of_its_target() -> None:
    decision = decided(CONNECT, Finding.CONFIRMED)
    target = target_of(decision, Action(kind=K.REFUSE, tgid=500, boot_ns=7))

    wanted = {"address": "127.0.0.1", "port": 1, "protocol": 6, "tgid": 500, "boot_ns": 7, "uid": 0}
    assert wanted.items() <= target.items()


@pytest.mark.parametrize("path", ["./tool", "/tmp/link", "/media/company/../../tmp/x", ""])
@pytest.mark.parametrize("kind", ["usb", "mount"])
def test_a_medium_is_named_by_what_the_kernel_saw_and_not_by_the_path_that_was_given(
    kind: Literal["usb", "mount"], path: str
) -> None:
    file = File(dev=8 << 20 | 17, ino=2, size=3, ctime_s=4, ctime_ns=5)
    event = Exec(head=head(500), file=file, sha256="", path=path)
    decision = decided(event, Finding.CONFIRMED)
    (action,) = plan(decision, Config(), rules=ActionRules(confirmed={"exec": (kind,)}))

    target = target_of(decision, action)

    assert target["medium"] == "8:17"
    assert "file" not in target


MOUNTS = """\
30 1 8:2 / / rw - ext4 /dev/sda2 rw
31 30 8:17 /photos {0}/media/photos rw - ext4 /dev/sdb1 rw
32 30 8:17 / {0}/media/stick rw - ext4 /dev/sdb1 rw
33 30 8:33 / {0}/media/over rw - ext4 /dev/sdc1 rw
34 33 8:49 / {0}/media/over rw - ext4 /dev/sdd1 rw
"""


def test_a_path_means_the_medium_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS.format(tmp_path))
    (tmp_path / "media/stick").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "media/stick/tool")

    def point(path: Path) -> str:
        found = mounts.carrying(path, tmp_path)
        return found.point if found else ""

    assert point(tmp_path / "link") == f"{tmp_path}/media/stick"
    assert point(tmp_path / "media/stick/../../tmp/x") == "/"


def test_a_device_means_the_mount_of_all_of_it_that_nothing_lies_over(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS.format(tmp_path))

    found = [mounts.of_device(device, tmp_path) for device in ("8:17", "8:49", "8:33", "0:0")]

    wanted = [f"{tmp_path}/media/stick", f"{tmp_path}/media/over", None, None]
    assert [one and one.point for one in found] == wanted


MASS = MassRewrite(boot_ns=7, tgid=500, paths=("/media/s/a", "/media/s/b"), stopped="stopped")


@pytest.mark.parametrize(
    ("rules", "event", "target"),
    [
        ({"confirmed": {"exec": ["mount"]}}, EXEC, {"medium": "0:1", "way": "noexec"}),
        ({"confirmed": {"mass": ["mount"]}, "mount": "read-only"}, MASS, {"file": "/media/s/a", "way": "read-only"}),
        ({"confirmed": {"library": ["usb"]}}, MAPPED, {"medium": "0:1"}),
        ({"confirmed": {"file": ["usb"]}}, CHANGE, {"file": "/protected"}),
        ({"confirmed": {"connect": ["usb"]}, "usb": "new"}, CONNECT, {"new": True}),
        ({"confirmed": {"connect": ["radio"]}, "ttl_s": {"radio": 600}}, CONNECT, {"radios": [], "ttl_s": 600}),
        ({"confirmed": {"tamper": [], "exec": ["radio"]}, "radio": {"off": ["wwan"], "last_road": True},
          "ttl_s": {"radio": 60}}, EXEC, {"radios": ["wwan"], "last_road": True, "ttl_s": 60}),
    ],
    ids=["medium", "medium-of-many", "stick", "stick-by-path", "next-stick", "radios", "last-road"],
)  # fmt: skip
def test_a_policy_says_how_radios_usb_and_media_answer(
    rules: dict[str, object], event: Event, target: dict[str, object]
) -> None:
    said = policy.parse(msgspec.json.encode({"actions": rules})).actions
    decision = decided(event, Finding.CONFIRMED)

    (action,) = plan(decision, Config(), rules=said)

    assert target.items() <= target_of(decision, action).items()
    assert action.dry_run is False
