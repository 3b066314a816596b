# SPDX-License-Identifier: Apache-2.0
"""What `mamplus` says on a real state directory, without an agent."""

import json
from pathlib import Path

import pytest

from mamplus_host.ble.entry import Kind
from mamplus_host.ble.shadow import Use
from mamplus_host.cli.app import run_app
from mamplus_host.cli.state import CLI
from mamplus_host.policy import Policy
from tests.journey.device import Device

BAD, WORSE = (Kind.IP, "203.0.113.99"), (Kind.IP, "203.0.113.77")
LIMIT = Policy().shadow_limit


class Terminal:
    """The command line of one device."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.device, self._capsys = Device(folder / "state"), capsys
        self._config = folder / "agent.toml"
        self._config.write_text(f'[paths]\nstate = "{folder}/state"\nrun = "{folder}/run"\n')

    def __call__(self, *words: str) -> tuple[int, str, str]:
        code = run_app(self._config, list(words))
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
