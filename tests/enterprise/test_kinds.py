# SPDX-License-Identifier: Apache-2.0
"""Every kind can be written down; what cannot be enforced as it is meant is refused in words that help."""

from pathlib import Path

import pytest

from mamplus_enterprise.ble.author import Draft
from mamplus_enterprise.ble.rules import check_rule
from mamplus_enterprise.cli.kinds import text_of
from mamplus_host.ble.entry import Kind
from mamplus_host.errors import ConfigInvalid
from mamplus_host.verdicts import Verdict
from tests.enterprise.company import Company

SIGMA = """title: netcat
logsource:
  category: process_creation
  product: linux
detection:
  selection:
    Image|endswith: /nc
  condition: selection
"""


@pytest.mark.parametrize(
    ("kind", "value", "printed"),
    [
        ("path", "/bin//nc", "block path /usr/bin/nc"),
        ("package", "deb:OpenSSL < 3.0.11-1~deb12u2", "block package deb:openssl<3.0.11-1~deb12u2"),
        ("user", "eve", "block user eve"),
        ("usb", "0781:5581:ABC", "block usb 0781:5581:ABC"),
        ("yara", "@rule.yar", "block yara rule nc …"),
        ("sigma", "@rule.yml", "block sigma title: netcat …"),
    ],
)
def test_each_kind_is_taken_and_printed_as_it_is_stored(
    quiet: Company, tmp_path: Path, kind: str, value: str, printed: str
) -> None:
    (tmp_path / "rule.yar").write_text("rule nc\n{ condition: true }\n")
    (tmp_path / "rule.yml").write_text(SIGMA)
    given = value.replace("@", f"@{tmp_path}/")

    done = quiet.attempt("ble", "add", kind, given, "--verdict", "block")

    assert (done.returncode, done.stdout.strip().endswith(printed)) == (0, True), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        ("path", "nc", "want an absolute path like /usr/bin/nc"),
        ("package", "openssl", "want one like deb:openssl<3.0.11-1~deb12u2"),
        ("user", "1000", "want a name like eve or uid:1001"),
        ("user", "root", "cannot be refused"),
        ("usb", "sandisk", "like 0781:5581"),
        ("yara", "rule a { condition: b }", "unknown identifier `b`"),
        ("hash", "x", "want one of: sha256, ip, cidr, domain, path, port, package"),
    ],
)
def test_what_is_none_is_refused_with_the_spelling_that_was_wanted(
    quiet: Company, kind: str, value: str, wanted: str
) -> None:
    done = quiet.attempt("ble", "add", kind, value, "--verdict", "block")

    assert (done.returncode, wanted in done.stderr) == (2, True), done.stderr


def test_an_allow_with_an_end_is_refused_where_a_lasting_block_would_be_lost_by_it(quiet: Company) -> None:
    quiet.run("ble", "add", "ip", "203.0.113.99", "--verdict", "block")
    refused = quiet.attempt("ble", "add", "ip", "203.0.113.99", "--verdict", "allow", "--until", "2099-12-31")

    assert (refused.returncode, "leave --until away" in refused.stderr) == (2, True)
    quiet.run("ble", "add", "ip", "203.0.113.99", "--verdict", "allow")


@pytest.mark.parametrize(
    "text",
    ["title: x", "- a\n- b", "a: [", SIGMA.replace("condition: selection", "condition: other"), f"{SIGMA}---\n{SIGMA}"],
)
def test_a_text_that_is_no_sigma_rule_is_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid, match="Sigma rule"):
        check_rule(Kind.SIGMA, text)


def test_a_yara_rule_that_reads_another_file_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="include"):
        check_rule(Kind.YARA, 'include "/etc/passwd"\nrule a { condition: true }')


def test_root_may_be_allowed_but_not_refused() -> None:
    Draft(kind=Kind.USER, value="uid:0", verdict=Verdict.ALLOW)
    with pytest.raises(ConfigInvalid, match="cannot be refused"):
        Draft(kind=Kind.GROUP, value="gid:0", verdict=Verdict.SUSPECT)


def test_a_rule_file_that_is_not_there_is_said_once_and_without_a_number(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        text_of(Kind.YARA, f"@{tmp_path}/none")

    assert str(refused.value) == (
        f"cannot read '{tmp_path}/none': No such file or directory; want a file with one rule in UTF-8"
    )
