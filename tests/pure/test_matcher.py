# SPDX-License-Identifier: Apache-2.0
"""What user space asks the list about a start: path, user, groups."""

import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from mamplus_host.analyzer.accounts import Accounts, spellings
from mamplus_host.analyzer.decide import Facts, asks_here, decide
from mamplus_host.analyzer.matcher import Matcher, in_user_space, places
from mamplus_host.ble.encode import encode, encode_delta, withdrawal
from mamplus_host.ble.entry import Entry, Kind, canonical
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.stack import LayerFiles, Stack
from mamplus_host.collector.programs import program_path
from mamplus_host.events import NO_SLOT, Exec, File, Head
from mamplus_host.kernel import layout
from mamplus_host.verdicts import Finding, Indicator, Verdict

B, A, S = Verdict.BLOCK, Verdict.ALLOW, Verdict.SUSPECT
EVE = (("uid:1001", "eve"), ("gid:27", "sudo", "gid:1001", "eve"))


def entries(*lines: tuple[Kind, str, Verdict]) -> list[Entry]:
    return [
        Entry(id=i, kind=kind, value=canonical(kind, value), verdict=says)
        for i, (kind, value, says) in enumerate(lines, 1)
    ]


def matcher(*lines: tuple[Kind, str, Verdict]) -> Matcher:
    made = Matcher.of(Generation(encode(entries(*lines), generation=9, created_s=0)), Accounts(lambda _uid: EVE))
    assert made is not None
    return made


def says(asked: Matcher, path: str, uid: int = 1001) -> Verdict:
    answer = asked.about(path, uid, now_s=1)
    return answer.verdict if answer else Verdict.NOTHING


def start(pid: int = 100, path: str = "/tmp/x", ino: int = 2, **head: object) -> Exec:
    plain = Head(1, 2, 3, pid, 99, 1001, NO_SLOT, 0, Verdict.NOTHING, "comm")
    return Exec(msgspec.structs.replace(plain, **head), File(1, ino, 3, 4, 5), "ab" * 32, path)


def test_a_list_without_such_kinds_has_nothing_to_ask() -> None:
    assert (
        Matcher.of(Generation(encode(entries((Kind.IP, "10.0.0.1", B)), generation=1, created_s=0)), Accounts()) is None
    )
    assert Matcher.of(None, Accounts()) is None


def test_a_path_is_asked_exactly_and_among_patterns() -> None:
    asked = matcher((Kind.PATH, "/usr/bin/nc", B), (Kind.PATH, "/home/*/.cache/**", S))

    assert says(asked, "/usr/bin/nc") is B
    assert says(asked, "/bin/nc") is B  # before the usr-merge
    assert says(asked, "/home/eve/.cache/x/y") is S
    assert says(asked, "/usr/bin/ncat") is Verdict.NOTHING
    assert says(asked, "") is Verdict.NOTHING


def test_the_greatest_of_path_user_and_groups_decides() -> None:
    assert says(matcher((Kind.PATH, "/tmp/*", S), (Kind.USER, "eve", B)), "/tmp/x") is B
    assert says(matcher((Kind.PATH, "/tmp/*", A), (Kind.GROUP, "gid:27", B)), "/tmp/x") is A
    assert says(matcher((Kind.GROUP, "sudo", B)), "/tmp/x") is B
    assert says(matcher((Kind.USER, "uid:1001", B)), "/tmp/x") is B


def test_what_root_runs_is_never_refused_for_being_roots() -> None:
    accounts = Accounts(lambda _uid: (("uid:0", "root"), ("gid:0", "root")))
    made = entries((Kind.USER, "root", B), (Kind.GROUP, "gid:0", B), (Kind.PATH, "/tmp/x", S))
    asked = Matcher.of(Generation(encode(made, generation=9, created_s=0)), accounts)
    assert asked is not None

    assert says(asked, "/usr/bin/y", uid=0) is Verdict.NOTHING
    assert says(asked, "/tmp/x", uid=0) is S


def test_a_pattern_that_a_delta_withdraws_covers_nothing_any_more_and_one_that_it_brings_does() -> None:
    base = Generation(encode(entries((Kind.PATH, "/opt/**", B)), generation=1, created_s=0))
    new = Entry(id=5, kind=Kind.PATH, value="/srv/*", verdict=S)
    data = encode_delta([withdrawal(Kind.PATH, "/opt/**"), new], [base], generation=2, created_s=1)
    stack = Stack([LayerFiles(Layer.ENTERPRISE, base, (Generation(data),))])
    asked = Matcher.of(stack, Accounts(lambda _uid: EVE))
    assert asked is not None

    assert says(asked, "/opt/x") is Verdict.NOTHING
    assert says(asked, "/srv/x") is S


def test_a_block_of_a_path_is_confirmed_in_user_space_and_names_its_entry() -> None:
    answer = matcher((Kind.PATH, "/tmp/*", B)).about("/tmp/x", 1001, now_s=1)

    decision = decide(start(), Facts(alert_id="A", here=answer))

    assert (decision.finding, decision.in_kernel, decision.entry_id) == (Finding.CONFIRMED, False, 1)
    assert "'/tmp/x', started by uid 1001, is on the list through path /tmp/*" in decision.reason
    assert decision.indicator == Indicator("sha256", "ab" * 32)


def test_an_account_is_its_own_indicator_for_the_program_is_not_to_blame() -> None:
    answer = matcher((Kind.USER, "eve", S)).about("/usr/bin/ls", 1001, now_s=1)

    assert decide(start(), Facts(alert_id="A", here=answer)).indicator == Indicator("user", "eve")


def test_an_allow_of_a_path_overrules_a_suspicion_but_not_what_the_kernel_refused() -> None:
    answer = matcher((Kind.PATH, "/tmp/*", A)).about("/tmp/x", 1001, now_s=1)
    facts = Facts(alert_id="A", here=answer)

    assert decide(start(verdict=S), facts).finding is Finding.NOTHING
    assert decide(start(verdict=B, flags=layout.F_REFUSED), facts).finding is Finding.CONFIRMED


@pytest.mark.parametrize(
    ("head", "held", "asks"),
    [
        ({}, False, True),
        ({"verdict": S}, False, True),
        ({"verdict": A}, False, False),
        ({"verdict": B, "flags": layout.F_REFUSED}, False, False),
        ({"flags": layout.F_HELD}, False, False),
        ({"flags": layout.F_UNKNOWN}, True, True),
    ],
)
def test_a_start_is_asked_about_once_when_its_content_is_known(head: dict[str, object], held: bool, asks: bool) -> None:
    assert asks_here(msgspec.structs.replace(start(**head), held=held)) is asks  # type: ignore[arg-type]


def test_the_path_of_a_program_is_the_kernels_with_links_followed(tmp_path: Path) -> None:
    program = tmp_path / "real"
    shutil.copy("/usr/bin/sleep", program)
    (tmp_path / "link").symlink_to(program)
    with subprocess.Popen([tmp_path / "link", "60"]) as process:
        event = start(process.pid, path="./link", ino=program.stat().st_ino)
        try:
            assert program_path(event) == str(program)
            program.unlink()
            assert program_path(event) == str(program)
        finally:
            process.kill()


def test_the_path_of_a_process_that_is_gone_is_what_it_was_started_as_resolved(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/usr/bin/sleep")

    assert program_path(start(2**22 - 1, path=str(tmp_path / "link"))) == os.path.realpath("/usr/bin/sleep")
    assert program_path(start(2**22 - 1, path="./sleep")) == ""


def test_an_account_is_looked_up_once_and_again_when_the_database_may_have_changed() -> None:
    asked, now = list[int](), [0.0]
    accounts = Accounts(lambda uid: asked.append(uid) or EVE, lambda: now[0])  # type: ignore[func-returns-value]
    for at in (0.0, 1.0, 3.0, 400.0):
        now[0] = at
        accounts.names(1001)

    assert asked == [1001, 1001]


def test_root_is_spelled_in_each_way() -> None:
    assert spellings(Kind.USER, "root") == ["root", "uid:0"]
    assert spellings(Kind.USER, "uid:0") == ["uid:0", "root"]
    assert spellings(Kind.GROUP, "nosuchgroup") == ["nosuchgroup"]


def test_what_user_space_enforces_is_told_apart_from_what_nobody_does() -> None:
    kinds = {"path": 2, "usb": 1}

    assert in_user_space(kinds) == 2
    assert places(kinds, {"kind": kinds, "expired": 3}) == {
        "in_user_space_by_kind": {"path": 2},
        "not_enforced_by_kind": {"usb": 1},
        "not_enforced_because": {"expired": 3},
    }
    assert places({}, {}) == {}
