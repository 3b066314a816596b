# SPDX-License-Identifier: Apache-2.0
"""The administrator's command line: what scripts may rely on."""

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mamplus_enterprise.ble import author, states, steps
from mamplus_enterprise.ble.gate import Gate
from mamplus_enterprise.ble.keys import load_signers
from mamplus_enterprise.ble.never import Never
from mamplus_enterprise.ble.publish import Request, publish
from mamplus_enterprise.cli import shared
from mamplus_enterprise.cli.main import hoist
from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.store import Store
from mamplus_host.ble.entry import Kind
from mamplus_host.ble.layer import Layer
from tests.enterprise.company import Company, opened
from tests.enterprise.test_states import write


def test_init_makes_an_enterprise_and_refuses_a_directory_that_is_not_empty(tmp_path: Path) -> None:
    company = Company(tmp_path / "new" / "enterprise")
    company.run("init", company.dir, "--dev", "--url", "https://mam.example:8443")
    before = sorted(path.name for path in company.dir.iterdir())

    again = company.attempt("init", company.dir, "--dev")
    careless = company.attempt("init", tmp_path / "other")

    assert (again.returncode, "not empty" in again.stderr) == (1, True)
    assert (careless.returncode, "--passphrase-file" in careless.stderr) == (2, True)
    assert not (tmp_path / "other").exists()
    assert sorted(path.name for path in company.dir.iterdir()) == before
    secret = [company.dir / "admin.token", company.dir / "database.sqlite", *(company.dir / "keys").glob("*.pem")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    assert company.token()["url"] == "https://mam.example:8443"


def test_the_token_is_the_last_line_and_plain_http_needs_dev_and_no_fingerprint(quiet: Company) -> None:
    done = quiet.attempt("token", "new", "--url", "http://127.0.0.1:1")

    assert len(done.stdout.splitlines()) == 1
    assert opened(done.stdout.strip())["fingerprint"] == ""
    assert quiet.attempt("token", "new", "--url", "ftp://x").returncode == 2


@pytest.mark.parametrize(
    ("kind", "value", "until"),
    [("tls", "ab" * 32, "+30"), ("cidr", "44.0.0.0/7", "+30"), ("domain", "bad.example", "+91"), ("port", "53", "")],
    ids=["kind", "width", "end", "no end"],
)
def test_what_a_layers_key_may_not_sign_is_not_written_into_it(
    quiet: Company, kind: str, value: str, until: str
) -> None:
    """A single such entry would keep all layers from being published."""
    day = f"{datetime.now(UTC) + timedelta(days=int(until)):%Y-%m-%d}" if until else ""
    end = ["--until", day] if day else []

    done = quiet.attempt("ble", "add", kind, value, "--verdict", "block", "--layer", "feeds", *end)

    assert (done.returncode, "layer feeds" in done.stderr) == (2, True), done.stderr
    assert quiet.json("ble", "list")["entries"] == []


def test_a_day_ends_with_its_last_second_however_it_is_written(quiet: Company) -> None:
    for number, day in enumerate(("2040-12-31", "20401231")):
        quiet.run("ble", "add", "domain", f"{number}.example", "--verdict", "block", "--until", day)

    assert {entry["valid_until"] for entry in quiet.json("ble", "list")["entries"]} == {2240611200}


def test_what_was_written_and_published_is_told_to_machines_too(quiet: Company) -> None:
    first = quiet.json("ble", "add", "domain", "bad.example", "--verdict", "suspect")
    second = quiet.json("ble", "add", "domain", "bad.example", "--verdict", "block")
    removed = quiet.json("ble", "remove", second["id"])
    quiet.run("ble", "add", "ip", "45.66.7.1", "--verdict", "block")

    published = quiet.json("ble", "publish")

    assert (first["replaces"], second["replaces"], second["verdict"]) == (None, first["id"], "block")
    assert (removed["id"], removed["removed_at"] is None) == (second["id"], False)
    assert published == {"generation": 2, "entries": 1, "left": [], "failed": []}


def test_progress_is_told_in_lines_where_no_terminal_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with shared.bar("import", 200) as soon:
        soon(50)
    monkeypatch.setattr(shared, "TOLD_EVERY_S", 0.0)
    with shared.bar("import", 200) as progress:
        progress(50)
        progress(200)

    said = [line.partition(" after ")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == ["import: 25 %", "import: 100 %"]


def test_difference_publication_and_revert_tell_of_every_step_that_was_foreseen(
    quiet: Company, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "TOLD_EVERY", 1)
    for name in ("one", "two", "three"):
        write(store, Kind.DOMAIN, f"{name}.example")
    home, told = Home.open(quiet.dir), list[int]()

    with store.reading() as session:
        foreseen = [states.steps_between(session, [Layer.ENTERPRISE], "1", states.WORKING)]
        states.difference(session, Layer.ENTERPRISE, "1", states.WORKING, steps.Steps(told.append))
        foreseen.append(2 * author.unpublished(session))
    counted = steps.Steps(told.append)
    request = Request("test", "because", make_gate=lambda: Gate(Never(), None), steps=counted)
    publish(home, store, load_signers(home, None), request)
    with store.writing() as session:
        foreseen.append(states.steps_between(session, [Layer.ENTERPRISE], "1", states.WORKING))
        states.revert(session, Layer.ENTERPRISE, "1", who="test", really=True, steps=steps.Steps(told.append))

    assert foreseen == [3, 6, 3]
    assert told == [1, 2, 3, *range(1, 7), 1, 2, 3]


def test_what_a_feed_wrote_moves_no_cursor(quiet: Company) -> None:
    quiet.run("ble", "add", "domain", "bad.example", "--verdict", "block", "--reason", "\x1b[31mred\x07")

    assert "\\x1b[31mred\\x07" in quiet.attempt("ble", "check", "domain", "bad.example").stdout


def test_a_never_block_file_that_cannot_be_read_is_named(quiet: Company) -> None:
    (quiet.dir / "never-block.txt").write_bytes("b\xfccher.example\n".encode("latin-1"))

    done = quiet.attempt("ble", "check", "domain", "bad.example")

    assert (done.returncode, "never-block.txt' is not in UTF-8" in done.stderr) == (2, True), done.stderr


def test_an_export_to_a_pipe_is_refused_and_the_pipe_stays(quiet: Company, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    done = quiet.attempt("ble", "export", pipe, "--format", "hosts")
    carrier = quiet.attempt("ble", "export", pipe)

    assert (done.returncode, carrier.returncode) == (1, 1)
    assert "it is a device or a pipe" in done.stderr
    assert pipe.is_fifo()
    assert quiet.run("ble", "export", "/dev/stdout", "--format", "hosts").startswith("# MAM+ list")


@pytest.mark.parametrize(
    "words",
    [
        ("ble", "add", "nonsense", "x", "--verdict", "block"),
        ("ble", "add", "domain", "no dots", "--verdict", "block"),
        ("ble", "add", "domain", "bad.example", "--verdict", "maybe"),
        ("ble", "add", "domain", "bad.example", "--verdict", "block", "--until", "2001-01-01"),
        ("ble", "add", "domain", "bad.example", "--verdict", "block", "--until", "9999-12-31"),
        ("ble", "add", "domain", "bad.example", "--verdict", "block", "--until", "soon"),
        ("ble", "add", "domain", "bad.example", "--verdict", "block", "--message", "x" * 5000),
        ("ble", "add", "domain"),
        ("alerts", "--state", "unheard"),
    ],
    ids=lambda words: words[-1][:12],
)
def test_wrong_usage_is_exit_2_with_the_reason_on_stderr(quiet: Company, words: tuple[str, ...]) -> None:
    done = quiet.attempt(*words)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert quiet.json("ble", "list")["entries"] == []


def test_adding_replaces_and_does_not_publish(quiet: Company) -> None:
    first = quiet.attempt("ble", "add", "domain", "bad.example", "--verdict", "allow")
    second = quiet.attempt("ble", "add", "domain", "BAD.example.", "--verdict", "block", "--severity", "critical")

    listed = quiet.json("ble", "list")

    assert "ble publish" in first.stderr
    assert "replaces entry 1" in second.stderr
    assert (listed["generation"], listed["unpublished"]) == (1, 1)
    assert [(one["id"], one["verdict"], one["severity"]) for one in listed["entries"]] == [(2, "block", "critical")]


def test_the_list_says_how_many_changes_no_generation_has(quiet: Company) -> None:
    waiting = []
    for words in (
        ("add", "ip", "203.0.113.1", "--verdict", "block"), ("publish",), ("remove", "1"),
        ("add", "ip", "203.0.113.2", "--verdict", "block"), ("remove", "2"), ("publish", "--allow-shrink"),
    ):  # fmt: skip
        quiet.run("ble", *words)
        waiting.append(quiet.json("ble", "list")["unpublished"])

    assert waiting == [1, 0, 1, 2, 1, 0]


def test_json_is_one_line(quiet: Company) -> None:
    quiet.run("ble", "add", "domain", "bad.example", "--verdict", "block", "--reason", "two\nlines")

    for words in (("ble", "list"), ("alerts",), ("devices",)):
        (line,) = quiet.run(*words, "--json").splitlines()
        json.loads(line)


def test_an_import_tells_of_every_line_that_it_drops(quiet: Company, tmp_path: Path) -> None:
    quiet.run("ble", "add", "domain", "ours.example", "--verdict", "allow")
    feed = tmp_path / "feed.txt"
    lines = ["# a feed", "evil.example", "", "EVIL.example.", "no domain", "ours.example", "x" * 10_000, "late.example"]
    feed.write_text("\n".join(lines))

    report = quiet.json("ble", "import", "plain", feed, "--kind", "domain")

    assert (report["lines"], report["added"], report["comments"], report["dropped_count"]) == (8, 2, 2, 4)
    reasons = {one["line"]: one["reason"] for one in report["dropped"]}
    assert list(reasons) == [4, 5, 6, 7]
    assert "earlier line says block" in reasons[4]
    assert "no DNS name" in reasons[5]
    assert "entry 1 says allow" in reasons[6]
    assert "longer" in reasons[7]
    verdicts = {one["value"]: one["verdict"] for one in quiet.json("ble", "list")["entries"]}
    assert verdicts == {"ours.example": "allow", "evil.example": "block", "late.example": "block"}


def test_a_csv_import_takes_kind_verdict_and_reason_from_the_line(quiet: Company, tmp_path: Path) -> None:
    feed = tmp_path / "feed.csv"
    feed.write_text('kind,value,verdict,reason\nip,45.66.7.7,suspect,"scans, often"\ncidr,45.66.8.7/24\nip,x,y,z,u\n')

    report = quiet.json("ble", "import", "csv", feed, "--verdict", "block", "--source", "feed of the day")

    assert [(one["line"], "5 fields" in one["reason"]) for one in report["dropped"]] == [(4, True)]
    rows = [
        (one["value"], one["verdict"], one["reason"], one["source"]) for one in quiet.json("ble", "list")["entries"]
    ]
    assert rows == [
        ("45.66.7.7", "suspect", "scans, often", "feed of the day"),
        ("45.66.8.0/24", "block", "", "feed of the day"),
    ]


def test_text_from_devices_cannot_steer_the_terminal(company: Company) -> None:
    company.device("van\x1b[2J").sent(summary="[red]run\x1b]0;owned\x07 me[/red]")

    shown = company.run("alerts") + company.run("devices")

    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[red]run" in shown.replace("\n", "")


@pytest.mark.parametrize(
    ("line", "hoisted"),
    [
        ("ble list --dir D", "--dir D ble list"),
        ("ble list --dir=D --json", "--dir=D ble list --json"),
        ("--dir D serve --passphrase-file F", "--dir D --passphrase-file F serve"),
        ("ble add -- --dir D", "ble add -- --dir D"),
        ("ble list --dir", "--dir ble list"),
    ],
)
def test_the_directory_may_stand_anywhere_before_a_double_dash(line: str, hoisted: str) -> None:
    assert hoist(line.split()) == hoisted.split()


@pytest.mark.parametrize("words", [["-h"], ["devices", "-h"], ["ble", "add", "-h"], ["--version"]])
def test_help_and_version_are_asked_as_of_the_devices_program(quiet: Company, words: list[str]) -> None:
    said = quiet.run(*words)

    assert said.startswith("mamplus-enterprise 0." if words == ["--version"] else "Usage: ")
