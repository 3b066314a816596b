# SPDX-License-Identifier: Apache-2.0
"""The server's port: what it speaks, to whom, how much it holds, and how it ends."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.enterprise.company import Company


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Company]:
    """An enterprise as in production: encrypted keys, no --dev."""
    secret = tmp_path / "passphrase"
    secret.write_text("correct horse\n")
    made = Company(tmp_path / "enterprise")
    made.run("init", made.dir, "--passphrase-file", secret, "--host", "mam.example", "--host", "192.0.2.8")
    try:
        yield made
    finally:
        made.stop()


def test_a_development_enterprise_speaks_tls_and_plain_http_on_one_port(company: Company) -> None:
    over_tls, plain = company.ask("GET", "/v1/hello"), company.ask("GET", "/v1/hello", tls=False)

    assert over_tls.body == plain.body
    assert (over_tls.body["name"], over_tls.body["generation"]) == ("Test Ltd", 1)


def test_without_dev_keys_are_encrypted_and_plain_http_is_refused(guarded: Company, tmp_path: Path) -> None:
    for key in (guarded.dir / "keys").glob("*.pem"):
        assert b"ENCRYPTED PRIVATE KEY" in key.read_bytes(), key
    without = guarded.attempt("serve", "--listen", "127.0.0.1:0")
    guarded.serve("--passphrase-file", str(tmp_path / "passphrase"))

    plain = guarded.ask("GET", "/v1/hello", tls=False)

    assert (without.returncode, "--passphrase-file" in without.stderr) == (1, True)
    assert (plain.status, b"HTTPS" in plain.body) == (400, True)
    assert guarded.ask("GET", "/v1/hello").status == 200


def test_without_its_passphrase_an_enterprise_publishes_and_stores_nothing(guarded: Company, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("battery staple")

    missing = guarded.attempt("ble", "publish")
    mistaken = guarded.attempt("ble", "publish", "--passphrase-file", wrong)
    right = guarded.attempt("ble", "publish", "--passphrase-file", tmp_path / "passphrase")

    assert [missing.returncode, mistaken.returncode, right.returncode] == [1, 1, 0]
    assert "wrong passphrase" in mistaken.stderr
    assert right.stdout == "published generation 2 with 0 entries\n"


def test_the_certificate_names_this_machine_and_the_hosts_asked_for(guarded: Company) -> None:
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate((guarded.dir / "keys" / "tls.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert names.get_values_for_type(x509.DNSName) == ["localhost", "mam.example"]
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    assert addresses == ["127.0.0.1", "::1", "192.0.2.8"]


def test_the_server_ends_within_two_seconds_and_answers_the_devices_that_wait(company: Company) -> None:
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(device.wait, 1, 50) for device in [company.device(str(number)) for number in range(3)]]
        while [device["generation"] for device in company.admin("GET", "/devices").body] != [1, 1, 1]:
            assert not any(answer.done() for answer in waiting)  # until the server has noted all three

        assert company.stop() < 2

        assert [answer.result(10).body for answer in waiting] == [{"generation": 1}] * 3


def test_a_client_that_sends_nothing_does_not_keep_others_out_and_is_closed(company: Company) -> None:
    silent = [socket.create_connection(("127.0.0.1", company.port), timeout=15) for _ in range(20)]

    assert company.ask("GET", "/v1/hello").status == 200
    assert {client.recv(1) for client in silent} == {b""}  # after the time for a first byte
    for client in silent:
        client.close()


def test_a_client_that_never_ends_its_headers_is_closed(company: Company) -> None:
    with socket.create_connection(("127.0.0.1", company.port), timeout=40) as slow:
        slow.sendall(b"GET /v1/hello HTTP/1.1\r\nHost: x\r\n")

        assert slow.recv(1) == b""


def test_what_cannot_be_served_is_said_in_one_line(company: Company, tmp_path: Path) -> None:
    taken = company.attempt("serve", "--listen", f"127.0.0.1:{company.port}")
    nowhere = Company(tmp_path / "nowhere").attempt("serve")
    wrong = company.attempt("serve", "--listen", "8443")

    assert [taken.returncode, nowhere.returncode, wrong.returncode] == [1, 1, 2]
    for done, words in ((taken, "Address already in use"), (nowhere, "init DIR"), (wrong, "ADDR:PORT")):
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""


def test_a_database_of_another_release_is_not_served(quiet: Company) -> None:
    quiet.change("UPDATE alembic_version SET version_num = '9999'")

    done = quiet.attempt("serve", "--listen", "127.0.0.1:0")

    assert (done.returncode, "'9999'" in done.stderr) == (1, True)
