# SPDX-License-Identifier: Apache-2.0
"""Both command lines together: the policy on its way to a device, and alerts on a stick on their way back."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mamplus_host.clock import DeviceClock
from mamplus_host.outbox.store import Outbox
from mamplus_host.policy import policy
from mamplus_host.verdicts import Escalation, Finding, Severity
from tests.enterprise.company import Company


class Handheld:
    """A device without an agent: a state directory and the command line."""

    def __init__(self, folder: Path, company: Company) -> None:
        self.state = folder / "state"
        self.config = folder / "agent.toml"
        self.config.write_text(f'[paths]\nstate = "{self.state}"\nrun = "{folder}/run"\n')
        token = company.run("token", "new").split()[-1]
        self.run("enroll", f"https://127.0.0.1:{company.port}", "--token", token)

    def attempt(self, *words: object) -> "subprocess.CompletedProcess[str]":
        line = [str(Path(sys.executable).parent / "mamplus"), *map(str, words), "--config", str(self.config)]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)

    def run(self, *words: object) -> str:
        done = self.attempt(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def suspect(self, *names: str) -> None:
        outbox = Outbox(self.state / "outbox.sqlite", max_bytes=1 << 20)
        for name in names:
            outbox.put(
                Escalation(
                    id=name, kind="exec", finding=Finding.SUSPECTED, severity=Severity.HIGH, at=1.0, boot_ns=1,
                    generation=1, rule="r", summary=f"about {name}",
                )
            )  # fmt: skip
        outbox.close()


@pytest.fixture
def handheld(company: Company, tmp_path: Path) -> Handheld:
    return Handheld(tmp_path, company)


def test_what_waits_is_listed_and_carried_to_an_enterprise_that_no_network_reaches(
    company: Company, handheld: Handheld, tmp_path: Path
) -> None:
    company.stop()
    stick = tmp_path / "alerts.mamp"
    assert "Nothing waits" in handheld.run("outbox", "list")
    handheld.suspect("A", "B")
    assert [json.loads(line)["id"] for line in handheld.run("outbox", "list", "--json").splitlines()] == ["A", "B"]

    assert "exported 2 alerts" in handheld.run("outbox", "export", stick)
    assert b"about A" not in stick.read_bytes()
    assert "2 alerts of" in company.run("alerts", "import", stick)

    assert {row["id"] for row in company.json("alerts")} == {"A", "B"}
    again = company.attempt("alerts", "import", stick)
    assert (again.returncode, "imported before" in again.stderr) == (1, True)
    over = handheld.attempt("outbox", "export", stick)
    assert (over.returncode, "--force" in over.stderr) == (1, True)


@pytest.mark.parametrize("what", ["damaged", "cut off", "empty", "missing", "another enterprise's"])
def test_a_file_that_cannot_be_imported_is_one_clear_line(
    company: Company, handheld: Handheld, tmp_path: Path, what: str
) -> None:
    stick = tmp_path / "alerts.mamp"
    handheld.suspect("A")
    handheld.run("outbox", "export", stick)
    whole = stick.read_bytes()
    reader = company
    if what == "damaged":
        stick.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif what == "cut off":
        stick.write_bytes(whole[:-5])
    elif what == "empty":
        stick.write_bytes(b"")
    elif what == "missing":
        stick.unlink()
    else:
        reader = Company(tmp_path / "another").found()

    done = reader.attempt("alerts", "import", stick)

    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert "Traceback" not in done.stderr
    assert reader.json("alerts") == []


def test_a_dry_run_verifies_asks_and_leaves_nothing_behind(
    company: Company, handheld: Handheld, tmp_path: Path
) -> None:
    company.run("ble", "add", "ip", "203.0.113.1", "--verdict", "block")
    company.run("ble", "publish")
    handheld.run("ble", "refresh")
    before = {path: path.read_bytes() for path in handheld.state.rglob("*") if path.is_file()}
    company.run("ble", "add", "cidr", "127.0.0.0/8", "--verdict", "block")  # the enterprise's own address
    company.run("ble", "publish", "--force", "to see what devices say")
    company.run("ble", "export", tmp_path / "stick")

    by_network = json.loads(handheld.run("ble", "refresh", "--dry-run", "--json"))
    by_stick = handheld.run("ble", "load", "--dry-run", tmp_path / "stick")

    assert (by_network["new"], by_network["generation"], by_network["entries"]) == (True, 3, 2)
    assert by_network["would_block"]["lifelines"] >= 1
    assert {f"127.0.0.1:{company.port}/tcp"} <= {one["value"] for one in by_network["would_block"]["examples"]}
    assert "lifeline  ip 127.0.0.1" in by_stick
    after = {path: path.read_bytes() for path in handheld.state.rglob("*") if path.is_file()}
    assert after == before, "not even what trust has learnt"
    assert "installed generation 3" in handheld.run("ble", "load", tmp_path / "stick"), "one behind: no delta is on it"


def test_a_policy_reaches_the_device_with_the_next_publication_and_proves_the_time(
    company: Company, handheld: Handheld, tmp_path: Path
) -> None:
    wanted = tmp_path / "policy.json"
    wanted.write_text(json.dumps({"dead_man_s": 45, "never_block": {"names": ["proxy.example"]}}))
    company.run("policy", "set", wanted)
    begun = time.time()
    company.run("ble", "publish")

    handheld.run("ble", "refresh")

    kept, fault = policy.load(handheld.state)
    assert (kept.version, kept.dead_man_s, kept.never_block.names, fault) == (1, 45, ("proxy.example",), "")
    assert begun - 1 <= DeviceClock(handheld.state).signed_s <= time.time()
