# SPDX-License-Identifier: Apache-2.0
"""Enrolment: what a token is, what is refused, and what is kept."""

import base64
import hashlib
import json
import os
import platform
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from mamplus_host.clock import DeviceClock
from mamplus_host.enterprise import Enterprise, load_enterprise
from mamplus_host.errors import ConfigInvalid, EnrollRefused
from mamplus_host.outbox.enroll import enroll, parse_token
from mamplus_host.outbox.identity import Identity
from mamplus_host.pinned import endpoint
from tests.journey.repository import Repository
from tests.journey.served import Request, make_certificate, served

SECRET = "5e" * 32
ENTERPRISE_ID = "e1"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def token(url: str = "https://10.0.0.1:8443", fingerprint: str = "ab" * 32, **changes: Any) -> str:
    fields = {"url": url, "fingerprint": fingerprint, "secret": SECRET, **changes}
    return "mamplus1." + base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")


class Office:
    """An enterprise that enrols once, as docs/protocol.md says."""

    def __init__(self) -> None:
        self.root = Repository().root
        self.secrets = {SECRET}
        self.asked: dict[str, Any] = {}
        self.changes: dict[str, Any] = {}  # to its answer

    def __call__(self, request: Request) -> tuple[int, bytes]:
        assert (request.method, request.path) == ("POST", "/v1/enroll")
        self.asked = json.loads(request.body)
        if self.asked["secret"] not in self.secrets:
            return 403, b'{"detail": "unknown, used or expired token"}'
        public = base64.b64decode(self.asked["public_key"])
        key = Ed25519PublicKey.from_public_bytes(public)
        key.verify(base64.b64decode(self.asked["proof"]), f"mamplus-enroll:{SECRET}".encode())
        self.secrets.clear()
        answer = {
            "device_id": hashlib.sha256(public).hexdigest(), "enterprise_id": ENTERPRISE_ID, "generation": 3,
            "root": base64.b64encode(self.root).decode(),
        }  # fmt: skip
        return 200, json.dumps({**answer, **self.changes}).encode()


def test_a_device_enrols_over_pinned_tls_and_keeps_what_it_learnt(tmp_path: Path, certificate: Path) -> None:
    office = Office()
    with served(office, certificate=certificate) as server:
        member = enroll(server.url, token(server.url, server.fingerprint), tmp_path, "scanner-7")

    assert load_enterprise(tmp_path) == member
    assert (member.enterprise_id, member.fingerprint) == (ENTERPRISE_ID, server.fingerprint)
    assert member.addresses == ("127.0.0.1",)
    assert (tmp_path / "trust" / "root.json").read_bytes() == office.root
    assert office.asked["name"] == "scanner-7"
    assert office.asked["facts"]["kernel"] == platform.release()
    assert Identity.load(tmp_path).device_id == member.device_id


def test_the_address_may_come_from_the_token_alone(tmp_path: Path) -> None:
    with served(Office()) as server:
        assert enroll("", token(server.url, ""), tmp_path, "n").url == server.url


def test_the_key_is_for_its_owner_only_and_signs_as_the_protocol_says(tmp_path: Path) -> None:
    office = Office()
    with served(office) as server:
        enroll(server.url, token(server.url, ""), tmp_path, "n")
    path = tmp_path / "identity" / "device.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    identity = Identity.load(tmp_path)
    headers = identity.headers("POST", "/v1/alerts?x=1", b"body", now_s=17)
    text = f"POST\n/v1/alerts?x=1\n17\n{hashlib.sha256(b'body').hexdigest()}"
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(office.asked["public_key"]))
    key.verify(base64.b64decode(headers["Mamplus-Signature"]), text.encode())
    assert (headers["Mamplus-Device"], headers["Mamplus-Time"]) == (identity.device_id, "17")


def test_a_second_enrolment_needs_force_and_leaves_the_enterprise_before(tmp_path: Path) -> None:
    office = Office()
    with served(office) as server:
        first = enroll(server.url, token(server.url, ""), tmp_path, "n")
        (tmp_path / "trust" / "metadata.json").write_text("{}")
        DeviceClock(tmp_path).confirm(2_000_000_000.0)
        with pytest.raises(EnrollRefused, match=r"enrolled with .* already; to leave it, use --force"):
            enroll(server.url, token(server.url, ""), tmp_path, "n")
        assert load_enterprise(tmp_path) == first
        office.secrets = {SECRET}
        second = enroll(server.url, token(server.url, ""), tmp_path, "n", force=True)

    assert second.device_id != first.device_id
    assert not (tmp_path / "trust" / "metadata.json").exists()
    assert DeviceClock(tmp_path).signed_s == 0, "what the enterprise before said about the time"


def test_a_token_that_was_used_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    office = Office()
    office.secrets.clear()
    with served(office) as server, pytest.raises(EnrollRefused, match="unknown, used or too old; get a new one"):
        enroll(server.url, token(server.url, ""), tmp_path, "n")
    assert list(tmp_path.rglob("*")) == []


def test_a_certificate_that_is_not_the_tokens_is_told_nothing(tmp_path: Path, certificate: Path) -> None:
    with served(Office(), certificate=certificate) as server:
        with pytest.raises(EnrollRefused, match=f"fingerprint {server.fingerprint}, want abab.*nothing was sent"):
            enroll(server.url, token(server.url), tmp_path, "n")
        assert server.requests == []
    assert list(tmp_path.rglob("*")) == []


def test_an_enterprise_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    with served(Office()) as server:
        url = server.url

    with pytest.raises(EnrollRefused, match=r"cannot enroll: 127\.0\.0\.1:\d+ does not answer"):
        enroll(url, token(url, ""), tmp_path, "n")


@pytest.mark.parametrize(
    "changes", [{"device_id": "f" * 64}, {"root": "!"}, {"root": "eyJzaWduZWQiOnt9fQ=="}, {"root": 7}],
    ids=["other device", "no base64", "no root", "no text"],
)  # fmt: skip
def test_an_answer_that_is_not_as_agreed_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    office = Office()
    office.changes = changes
    with served(office) as server, pytest.raises(EnrollRefused, match=r"not as|names this device"):
        enroll(server.url, token(server.url, ""), tmp_path, "n")
    assert load_enterprise(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "begin"),
        ("mamplus2.abc", "begin"),
        ("mamplus1.", "damaged"),
        ("mamplus1.!!!", "damaged"),
        (token()[:-9], "damaged"),
        (token(secret=7), "damaged"),
        ("mamplus1." + "a" * 5000, "begin"),
    ],
)
def test_a_text_that_is_no_token_is_refused_with_the_way_out(tmp_path: Path, text: str, wanted: str) -> None:
    with pytest.raises(EnrollRefused, match=wanted):
        enroll("https://10.0.0.1", text, tmp_path, "n")


def test_a_token_may_have_blanks_around_it() -> None:
    assert parse_token(f" {token()}\n").secret == SECRET


@pytest.mark.parametrize(
    ("url", "fingerprint", "wanted"),
    [
        ("http://10.0.0.1:80", "", "plain HTTP"),
        ("http://127.0.0.1:80", "ab" * 32, "plain HTTP"),
        ("https://10.0.0.1", "", "64 hex digits"),
        ("https://10.0.0.1", "any", "64 hex digits"),
        ("ftp://10.0.0.1", "ab" * 32, "no address"),
        ("https://user:secret@10.0.0.1", "ab" * 32, "no address"),
        ("https://10.0.0.1:99999", "ab" * 32, "no address"),
        ("https://[::1", "ab" * 32, "no address"),
    ],
)
def test_an_address_is_https_with_a_fingerprint_or_loopback_without(url: str, fingerprint: str, wanted: str) -> None:
    with pytest.raises(ConfigInvalid, match=wanted):
        endpoint(url, fingerprint)


def test_a_device_that_is_not_enrolled_has_no_identity(tmp_path: Path) -> None:
    with pytest.raises(EnrollRefused, match="mamplus enroll URL"):
        Identity.load(tmp_path)


@pytest.mark.parametrize("damage", ["readable", "gone", "garbage", "other"])
def test_a_key_that_is_damaged_exposed_or_anothers_is_refused(tmp_path: Path, damage: str) -> None:
    office = Office()
    for folder in ("a", "b"):
        office.secrets = {SECRET}
        with served(office) as server:
            enroll(server.url, token(server.url, ""), tmp_path / folder, "n")
    path = tmp_path / "a" / "identity" / "device.key"
    acts: dict[str, Any] = {
        "readable": lambda: path.chmod(0o644),
        "gone": path.unlink,
        "garbage": lambda: path.write_text("garbage"),
        "other": lambda: os.replace(tmp_path / "b" / "identity" / "device.key", path),
    }
    acts[damage]()

    with pytest.raises(EnrollRefused, match="enroll again"):
        Identity.load(tmp_path / "a")


def test_the_agents_signature_is_the_one_that_cryptography_makes() -> None:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    enterprise = Enterprise(url="", fingerprint="", enterprise_id="", device_id="", enrolled_at=0)

    identity = Identity(pem, enterprise)

    assert identity.sign(b"what is signed") == key.sign(b"what is signed")
    assert identity.public_key() == key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def test_a_key_of_another_kind_is_refused() -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    enterprise = Enterprise(url="", fingerprint="", enterprise_id="", device_id="", enrolled_at=0)

    with pytest.raises(EnrollRefused, match="no Ed25519 key"):
        Identity(pem, enterprise)
