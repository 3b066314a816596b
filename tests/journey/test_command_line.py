# SPDX-License-Identifier: Apache-2.0
"""What `mamplus` says on a real state directory, without an agent."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from mamplus_host import __version__
from mamplus_host.ble import update
from mamplus_host.ble.entry import Kind
from mamplus_host.ble.shadow import Use
from mamplus_host.cli import state, table
from mamplus_host.cli.app import run_app
from mamplus_host.cli.state import CLI
from mamplus_host.doctor import asking, kept
from mamplus_host.doctor.kept import Situation
from mamplus_host.doctor.trial import Trial
from mamplus_host.errors import NotPossible
from mamplus_host.executor.network import netfilter
from mamplus_host.kernel import pins
from mamplus_host.policy.policy import Policy
from tests.journey.device import Device

MAMPLUS = Path(sys.executable).parent / "mamplus"
BAD, WORSE = (Kind.IP, "203.0.113.99"), (Kind.IP, "203.0.113.77")
LIMIT = Policy().shadow_limit


class Terminal:
    """The command line of one device."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.device, self._capsys = Device(folder / "state"), capsys
        self.config = folder / "agent.toml"
        self.config.write_text(f'[paths]\nstate = "{folder}/state"\nrun = "{folder}/run"\n')

    def __call__(self, *words: str) -> tuple[int, str, str]:
        code = run_app(self.config, list(words))
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def hold(self) -> None:
        """Have generation 1 in force, and generation 2, which names WORSE too, held."""
        self.device.take(1, BAD)
        programs = [(Kind.SHA256, f"{n:064x}") for n in range(1, LIMIT + 2)]
        self.device.uses = [Use(kind, value, f"/opt/{value[-2:]}") for kind, value in programs]
        self.device.take(2, BAD, WORSE, *programs)
        assert self.device.generations.number == 1


@pytest.fixture
def mamplus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Terminal:
    (tmp_path / "state").mkdir()
    return Terminal(tmp_path, capsys)


def test_check_answers_for_what_is_in_force_and_says_what_a_held_generation_would_do(mamplus: Terminal) -> None:
    mamplus.hold()

    code, out, _err = mamplus("check", "ip", WORSE[1])

    assert code == 0
    assert out.splitlines() == ["not blocked in generation 1", "  generation 2, held, would block it"]
    _code, out, _err = mamplus("check", "ip", WORSE[1], "--json")
    said = json.loads(out)
    assert (said["generation"], said["blocked"]) == (1, False)
    assert (said["kept_out"]["generation"], said["kept_out"]["blocked"], said["kept_out"]["because"]) == (
        2,
        True,
        "held",
    )
    assert mamplus("check", "ip", BAD[1])[:2][0] == 1
    entry = json.loads(mamplus("check", "ip", BAD[1], "--json")[1])["entry"]
    assert (entry["kind"], entry["value"], entry["verdict"], entry["severity"]) == ("ip", BAD[1], "block", "high")
    assert all(type(entry[name]) is int for name in ("id", "confidence", "valid_until"))


def test_check_says_nothing_of_a_newest_generation_that_a_person_let_in(mamplus: Terminal) -> None:
    mamplus.hold()
    mamplus.device.generations.accept(2)

    assert mamplus("check", "ip", WORSE[1])[0] == 1


def test_ble_show_lists_what_is_in_force_and_names_what_is_held(mamplus: Terminal) -> None:
    mamplus.hold()

    _code, out, _err = mamplus("ble", "show")

    assert out.startswith("generation 1, 1 entries")
    assert "generation 2 is held" in " ".join(out.split())
    assert WORSE[1] not in out


def test_ble_history_says_what_became_of_each_generation_and_keeps_the_files_to_itself(mamplus: Terminal) -> None:
    assert "No generation was ever installed." in mamplus("ble", "history")[1]
    mamplus.hold()

    newest, older = (line for line in mamplus("ble", "history")[1].splitlines() if not line.startswith("        "))

    assert newest.endswith(", held")
    assert older.endswith(", in force")
    assert " UTC " in older
    mamplus.device.generations.accept(2)
    said = [json.loads(line) for line in mamplus("ble", "history", "--json")[1].splitlines()]
    assert [(one["number"], one["marks"]) for one in said] == [(2, ["accepted", "in force"]), (1, [])]
    assert "parts" not in str(said)
    assert "sha256" not in str(said)


def test_status_writes_times_for_people_and_keeps_the_facts_of_a_layer_together(
    mamplus: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = {
        "ble": {"layers": {"enterprise": {"generation": 2, "entries": 3}}},
        "clock": {"signed_at": 1_800_000_000},
        "uplink": {"last_contact": 0.0},
    }
    monkeypatch.setattr(type(CLI), "call", lambda *_words, **_more: status)

    said = " ".join(mamplus("status")[1].split())

    assert "enterprise=(generation=2, entries=3)" in said
    assert "signed_at 2027-01-15 08:00:00 UTC" in said
    assert "last_contact never" in said


DIGEST = "ab" * 32


@pytest.mark.parametrize("width", [40, 80, 200])
def test_ble_show_breaks_no_value_whatever_the_width_of_the_terminal(
    mamplus: Terminal, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    mamplus.device.take(1, (Kind.SHA256, DIGEST))
    monkeypatch.setattr(state, "OUT", Console(highlight=False, width=width, force_terminal=True, color_system=None))
    monkeypatch.setattr(table, "OUT", state.OUT)

    (line,) = (line for line in mamplus("ble", "show")[1].splitlines() if DIGEST in line)

    assert line.split()[line.split().index(DIGEST) + 1] == "block"


def test_in_a_pipe_every_entry_is_one_line_with_all_columns(mamplus: Terminal) -> None:
    mamplus.device.take(1, (Kind.SHA256, DIGEST), BAD)

    (line,) = (line for line in mamplus("ble", "show")[1].splitlines() if DIGEST in line)

    assert "block" in line
    assert "enterprise" in line


def test_without_an_agent_the_way_out_names_the_configuration_that_was_given(mamplus: Terminal) -> None:
    code, _out, err = mamplus("status")

    assert (code, err.rstrip().endswith(f"start one: mamplus run --config {mamplus.config}")) == (1, True)


def test_an_alert_that_is_not_there_is_no_wrong_usage(mamplus: Terminal) -> None:
    with pytest.raises(NotPossible, match="no alert has the id 'zzz'") as refused:
        mamplus.device.alerts.get("zzz")

    assert refused.value.exit_code == 1


@pytest.mark.parametrize(
    ("pinned", "said"),
    [(False, "nothing was attached: nothing is enforced"), (True, "detached: nothing is enforced any more")],
)
def test_detach_says_whether_anything_was_attached(
    mamplus: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pinned: bool, said: str
) -> None:
    directory = tmp_path / "pins" / f"{pins.stamp()}-1"
    if pinned:
        directory.mkdir(parents=True)
    mamplus.config.write_text(mamplus.config.read_text() + f'bpffs = "{tmp_path}/pins"\n')
    monkeypatch.setattr(netfilter, "remove", lambda _config: None)  # this machine's own rules are not the test's

    assert mamplus("detach")[1].strip() == said
    assert not directory.exists()


def test_the_last_result_of_the_controls_is_shown_with_its_age_and_what_would_help(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    says = Terminal(tmp_path, capsys)
    before = says("doctor", "--last")
    controls = (
        Trial("exec", "degraded", "signal", "killed", 1.0, "programs", "boot with bpf among lsm=..."),
        Trial("library", "not possible", "", "it was mapped", 1.0, "programs", "boot with bpf among lsm=..."),
    )
    under = Situation(boot_id="boot 1", kernel="6.12", agent="0.1.0", generation=7)
    kept.write(
        says.device.state, kept.Kept(situation=under, why="boot", at=time.time() - 7200, boot_ns=1, controls=controls)
    )

    code, out, _ = says("doctor", "--last")

    assert (before[0], "tried its controls" in before[2]) == (1, True)
    assert code == 1  # one is not possible
    assert "tried 2 hours ago" in out
    assert out.count("to do better: boot with bpf among lsm=...") == 1
    assert "exec, library" in out
    code, out, _ = says("doctor", "--last", "--json")
    assert [one["state"] for one in json.loads(out)["controls"]] == ["degraded", "not possible"]


@pytest.mark.parametrize("content", [None, "[paths]\nstat = 'x'\n"], ids=["missing", "wrong"])
def test_doctor_says_that_a_configuration_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    """Its agent is not asked then, and what it names is not known: the result is that of a device without one."""
    monkeypatch.setattr(asking, "examine", lambda *_words, **_more: iter(()))
    says = Terminal(tmp_path, capsys)
    says.config.write_text(content) if content else says.config.unlink()
    wanted = "did you mean 'state'?" if content else f"no configuration at '{says.config}'"

    _code, _out, err = says("doctor")
    _code, out, _err = says("doctor", "--json")
    code, _out, last = says("doctor", "--last")

    assert wanted in err
    assert wanted in json.loads(out)["configuration_fault"]
    assert (code, wanted in last) == (2, True)


@pytest.mark.parametrize("words", [("ble", "load", "/media/carrier"), ("ble", "refresh")], ids=["load", "refresh"])
def test_what_was_installed_is_told_to_machines_too(
    mamplus: Terminal, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    done = update.FetchResult(generation=7, entries=3, new=True, took_s=0.5, bytes=900, layers={"feeds": 7})
    monkeypatch.setattr(update, "update", lambda *_words, **_more: done)

    code, out, err = mamplus(*words, "--json")

    assert code == 0
    assert json.loads(out) == {
        "generation": 7, "entries": 3, "new": True, "layers": {"feeds": 7}, "bytes": 900, "took_s": 0.5,
        "enforcing": None,
    }  # fmt: skip
    assert "No agent runs" in err


def test_the_version_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Terminal(tmp_path, capsys)("--version")[:2] == (0, f"mamplus {__version__}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cut",), "want one thing to cut"),
        (("cut", "192.0.2.1", "--pid", "5"), "want one thing to cut"),
        (("cut", "192.0.2.1", "--app"), "--app goes with --pid"),
        (("cut", "--pid", "5", "--port", "80"), "--port with an address"),
        (("cut", "example.net"), "is no address"),
        (("refuse",), "want one thing to refuse"),
        (("refuse", "--all", "--pid", "5"), "want one thing to refuse"),
        (("refuse", "192.0.2.300"), "is no address"),
        (("refuse", "192.0.2.1", "--for", "soon"), "is no time"),
        (("refuse", "192.0.2.1", "--for", "0h"), "is no time"),
    ],
)
def test_what_is_meant_to_be_cut_or_refused_has_to_be_one_thing(
    mamplus: Terminal, words: tuple[str, ...], said: str
) -> None:
    code, _out, err = mamplus(*words)

    assert code == 2
    assert said in err


@pytest.mark.parametrize(("begun", "offered"), [("mamplus re", "refuse"), ("mamplus refuse --a", "--all"),
                                                ("mamplus c", "cut"), ("mamplus cut --", "--app")])  # fmt: skip
def test_the_shell_completes_cut_and_refuse(begun: str, offered: str) -> None:
    asked = {"_MAMPLUS_COMPLETE": "complete_bash", "COMP_WORDS": begun, "COMP_CWORD": str(begun.count(" "))}

    done = subprocess.run([MAMPLUS], env=os.environ | asked, capture_output=True, text=True, check=False)

    assert offered in done.stdout.split()
