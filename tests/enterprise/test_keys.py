# SPDX-License-Identifier: Apache-2.0
"""Who signs, and with what: quorums, sticks, rotations, tokens; read back by the device's own trust."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mamplus_enterprise.ble.keyfiles import take_in
from mamplus_enterprise.ble.keys import load_seals
from mamplus_enterprise.home import Home
from mamplus_host.ble.carrier import Directory
from mamplus_host.ble.trust import Offered, Trust
from mamplus_host.ble.trust_memory import seal_key
from mamplus_host.errors import ConfigInvalid
from tests.enterprise.company import Company

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
NOW_S = 0.0


class Device:
    """What an enrolled device believes, and nothing else of it."""

    def __init__(self, company: Company, folder: Path) -> None:
        self.state, self._company, self._tries = folder, company, 0
        (folder / "trust").mkdir(parents=True)
        first = company.dir / "repository" / "metadata" / "1.root.json"
        (folder / "trust" / "root.json").write_bytes(first.read_bytes())

    def look(self) -> Offered:
        """Return what the enterprise's repository offers, read as a stick, once it is trusted."""
        self._tries += 1
        work = self.state / f"work-{self._tries}"
        trust = Trust(self.state, device_id="d" * 64)
        offered = trust.verify(Directory(self._company.dir / "repository"), work, {}, now_s=NOW_S)
        trust.remember()
        return offered


@pytest.fixture
def device(quiet: Company, tmp_path: Path) -> Device:
    return Device(quiet, tmp_path / "device")


@pytest.fixture
def guarded(tmp_path: Path) -> Company:
    """An enterprise as in production: encrypted keys, quorums, the offline ones on a stick."""
    (tmp_path / "passphrase").write_text("correct horse\n")
    made = Company(tmp_path / "enterprise")
    made.always = ("--passphrase-file", str(tmp_path / "passphrase"))
    made.run("init", made.dir, "--keys", tmp_path / "stick")
    return made


def roles(company: Company, *words: object) -> dict[str, Any]:
    return {role["role"]: role for role in company.json("root", "show", *words)["roles"]}


def test_by_default_two_of_three_root_keys_sign_and_they_are_on_the_stick(guarded: Company, tmp_path: Path) -> None:
    shown = roles(guarded)
    with_stick = roles(guarded, "--keys", tmp_path / "stick")

    assert {name: (role["threshold"], len(role["keys"])) for name, role in shown.items() if role["threshold"] > 1
            or len(role["keys"]) > 1} == {"root": (2, 3), "targets": (1, 2)}  # fmt: skip
    assert {key["where"] for key in shown["root"]["keys"]} == {"elsewhere"}
    assert all(str(tmp_path / "stick") in key["where"] for key in with_stick["root"]["keys"])
    for key in [*(guarded.dir / "keys").glob("*.pem"), *(tmp_path / "stick").glob("*.pem")]:
        assert key.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY"), key


def test_publishing_needs_no_offline_key_and_rotating_does(guarded: Company, tmp_path: Path) -> None:
    guarded.run("ble", "publish")
    refused = guarded.attempt("root", "rotate", "--role", "timestamp")
    guarded.run("root", "rotate", "--role", "timestamp", "--keys", tmp_path / "stick")

    assert refused.returncode == 1
    assert "role root wants 2 of its 3 keys to sign, 0 are at hand" in refused.stderr
    assert guarded.json("root", "show")["version"] == 2


def test_the_keys_that_seal_and_let_in_are_listed_with_their_place(guarded: Company, tmp_path: Path) -> None:
    shown, printed = roles(guarded, "--keys", tmp_path / "stick"), guarded.run("root", "show")

    for role in ("seal", "maintenance"):
        (key,) = shown[role]["keys"]
        assert f"{role}.{key['keyid'][:8]}" in key["where"]
        assert any(line.startswith(role) and key["keyid"][:16] in line for line in printed.splitlines())


def test_new_keys_go_where_the_old_ones_are(guarded: Company, tmp_path: Path) -> None:
    before = {role: len(list((guarded.dir / "keys").glob(f"{role}.*.pem"))) for role in ("timestamp", "root")}
    guarded.run("root", "rotate", "--role", "timestamp", "--role", "root", "--keys", tmp_path / "stick")

    assert before == {"timestamp": 1, "root": 0}
    assert {role: len(list((guarded.dir / "keys").glob(f"{role}.*.pem"))) for role in before} == before
    assert len(list((tmp_path / "stick").glob("root.*.pem"))) == 3
    assert len(list((tmp_path / "stick" / "revoked").glob("root.*.pem"))) == 3


def test_new_keys_of_snapshot_and_timestamp_go_where_the_next_publish_looks(guarded: Company, tmp_path: Path) -> None:
    for role in ("snapshot", "timestamp"):
        guarded.run("keys", "export", role, tmp_path / "stick")

    said = guarded.run("root", "rotate", "--role", "timestamp", "--role", "snapshot", "--keys", tmp_path / "stick")
    guarded.run("ble", "publish")

    written = [line.split(": ", 1)[1] for line in said.splitlines() if "written: " in line]
    assert {Path(path).parent for path in written} == {guarded.dir / "keys"}
    assert all(Path(path).is_file() for path in written)
    assert len(written) == 2


def test_each_root_key_may_lie_on_a_stick_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_text("correct horse\n")
    company = Company(tmp_path / "enterprise")
    company.always = ("--passphrase-file", str(tmp_path / "passphrase"))
    sticks = [tmp_path / name for name in ("a", "b", "c")]
    keys = [word for stick in sticks for word in ("--keys", stick)]
    company.run("init", company.dir, *keys)
    assert [len(list(stick.glob("root.*.pem"))) for stick in sticks] == [1, 1, 1]

    refused = company.attempt("root", "rotate", *keys[:2])
    company.run("root", "rotate", *keys[:4])

    assert "1 are at hand" in refused.stderr
    assert company.json("root", "show")["version"] == 2
    assert [len(list(stick.glob("root.*.pem"))) for stick in sticks[:2]] == [2, 1]


def test_a_timestamp_has_one_signature(quiet: Company) -> None:
    refused = quiet.attempt("root", "rotate", "--role", "timestamp", "--count", "2", "--threshold", "2")

    assert (refused.returncode, "one key signs a timestamp" in refused.stderr) == (2, True)


def test_one_key_of_a_quorum_of_two_does_not_rotate_anything(guarded: Company, tmp_path: Path) -> None:
    one, *others = sorted((tmp_path / "stick").glob("root.*.pem"))
    for other in others:
        other.unlink()

    refused = guarded.attempt("root", "rotate", "--keys", tmp_path / "stick")

    assert (refused.returncode, "2 of its 3 keys to sign, 1 are at hand" in refused.stderr) == (1, True)
    assert guarded.json("root", "show")["version"] == 1
    assert one.exists()


def test_a_device_follows_several_rotations_that_it_missed(quiet: Company, device: Device) -> None:
    device.look()
    quiet.run("root", "rotate")
    quiet.run("root", "rotate", "--count", "3", "--threshold", "2")
    quiet.run("root", "rotate", "--role", "snapshot", "--role", "timestamp")
    quiet.run("root", "rotate", "--role", "targets")
    quiet.run("root", "rotate", "--role", "ble-enterprise", "--role", "ble-feeds")
    quiet.run("ble", "add", "domain", "bad.example", "--verdict", "block")
    quiet.run("ble", "publish")

    offered = device.look()

    assert (offered.number, offered.entries) == (2, 1)
    assert quiet.json("root", "show")["version"] == 5


def test_a_rotated_key_is_put_away_and_signs_nothing_any_more(quiet: Company, device: Device) -> None:
    keys = quiet.dir / "keys"
    (old,) = keys.glob("ble-enterprise.*.pem")
    quiet.run("root", "rotate", "--role", "ble-enterprise")
    (new,) = keys.glob("ble-enterprise.*.pem")
    assert (keys / "revoked" / old.name).exists()
    new.rename(quiet.dir / "hidden")
    (keys / "revoked" / old.name).rename(old)

    refused = quiet.attempt("ble", "publish")

    assert (refused.returncode, "role ble-enterprise wants 1 of its 1 keys" in refused.stderr) == (1, True)
    assert device.look().number == 1


def test_a_threshold_that_no_keys_can_reach_is_wrong_usage(quiet: Company) -> None:
    refused = quiet.attempt("root", "rotate", "--threshold", "2")

    assert (refused.returncode, "2 of 1 keys" in refused.stderr) == (2, True)
    assert quiet.json("root", "show")["version"] == 1


def test_keys_go_to_a_stick_and_come_back(guarded: Company, tmp_path: Path) -> None:
    guarded.run("keys", "export", "ble-enterprise", tmp_path / "safe")
    without = guarded.attempt("ble", "publish")
    guarded.run("ble", "publish", "--keys", tmp_path / "safe")
    (key,) = (tmp_path / "safe").glob("*.pem")
    guarded.run("keys", "import", key)
    again = guarded.run("ble", "publish")

    assert (without.returncode, "role ble-enterprise wants 1 of its 1 keys" in without.stderr) == (1, True)
    assert again.startswith("published generation 3 ")
    assert {row["kind"] for row in guarded.json("keys", "list")} == {"encrypted"}


def test_a_key_taken_in_is_encrypted_or_refused(guarded: Company, tmp_path: Path) -> None:
    guarded.run("keys", "export", "ble-enterprise", tmp_path / "safe")
    (key,) = (tmp_path / "safe").glob("*.pem")

    with pytest.raises(ConfigInvalid, match="say --passphrase-file"):
        take_in(Home.open(guarded.dir), key, None)

    assert key.stat().st_mode & 0o777 == 0o600
    assert not list((guarded.dir / "keys").glob(key.name))


def test_a_key_that_no_role_has_is_not_taken_in(quiet: Company, tmp_path: Path) -> None:
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", tmp_path / "stranger.pem"], check=True)

    refused = quiet.attempt("keys", "import", tmp_path / "stranger.pem")

    assert (refused.returncode, "no role of this enterprise has the key" in refused.stderr) == (2, True)


def test_the_root_names_the_key_that_devices_encrypt_for(quiet: Company, device: Device) -> None:
    home = Home.open(quiet.dir)
    publics = [key.public_key().public_bytes_raw() for key in load_seals(home, None)]
    device.look()
    assert [seal_key(device.state)] == publics

    quiet.run("root", "rotate", "--role", "seal")
    device.look()

    after = [key.public_key().public_bytes_raw() for key in load_seals(home, None)]
    assert set(publics) < set(after), "what was encrypted before must still be readable"
    assert seal_key(device.state) in set(after) - set(publics)


# --- PKCS#11 ----------------------------------------------------------------------------------------


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a P-256 key on a SoftHSM token of one's own."""
    assert SOFTHSM.exists()  # packaging/debian-packages.txt names softhsm2
    (tmp_path / "tokens").mkdir()
    (tmp_path / "pin").write_text("1234\n")
    conf = tmp_path / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(conf))
    steps = (
        "softhsm2-util --init-token --free --label mam --pin 1234 --so-pin 5678",
        f"openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {tmp_path / 'key.pem'}",
        f"softhsm2-util --import {tmp_path / 'key.pem'} --token mam --label root --id 02 --pin 1234",
    )
    for step in steps:
        subprocess.run(step.split(), check=True, capture_output=True, env=os.environ)
    (tmp_path / "key.pem").unlink()
    return f"pkcs11:token=mam;id=%02?module-path={SOFTHSM}&pin-source=file:{tmp_path / 'pin'}"


@pytest.mark.parametrize("role", ["root", "ble-enterprise"])
def test_a_key_on_a_token_signs_for_a_role(quiet: Company, device: Device, token: str, role: str) -> None:
    device.look()
    quiet.run("keys", "use", role, token)
    where = roles(quiet)[role]["keys"]
    quiet.run("ble", "add", "ip", "203.0.113.7", "--verdict", "block")
    quiet.run("ble", "publish")
    quiet.run("root", "rotate", "--role", "timestamp")  # signed by the token when it is root's

    assert device.look().number == 2
    assert [key["where"].split()[0] for key in where] == ["token"]
    assert not list((quiet.dir / "keys").glob(f"{role}.*.pem"))


def test_the_note_of_a_tokens_key_is_where_the_next_publish_looks(guarded: Company, token: str, tmp_path: Path) -> None:
    guarded.run("keys", "export", "ble-enterprise", tmp_path / "stick")

    guarded.run("keys", "use", "ble-enterprise", token, "--keys", tmp_path / "stick")
    guarded.run("ble", "publish")

    assert len(list((guarded.dir / "keys").glob("ble-enterprise.*.uri"))) == 1


def test_a_token_with_another_pin_signs_nothing_and_says_which_key(quiet: Company, token: str, tmp_path: Path) -> None:
    quiet.run("keys", "use", "ble-enterprise", token)
    (tmp_path / "pin").write_text("9999\n")

    refused = quiet.attempt("ble", "publish")

    assert refused.returncode == 1
    assert "key 2 on token 'mam'" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_uri_that_lacks_a_part_is_wrong_usage(quiet: Company) -> None:
    refused = quiet.attempt("keys", "use", "root", "pkcs11:token=mam?module-path=/x")

    assert (refused.returncode, "lacks id, pin-source" in refused.stderr) == (2, True)
