# SPDX-License-Identifier: Apache-2.0
"""Publishing by layer: one counter, what a key may say, deltas that are kept, and a server without all keys."""

import base64
import hashlib
import tarfile
import time
from pathlib import Path

import pytest

from mamplus_enterprise.ble import author, repository, shelf
from mamplus_enterprise.ble.carrier import export
from mamplus_enterprise.ble.keys import load_signers
from mamplus_enterprise.ble.publish import Request, publish
from mamplus_enterprise.ble.roles import CARRIER, ONLINE, SIGNING
from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.store import Store
from mamplus_host.ble import encode
from mamplus_host.ble.entry import Kind
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.update_helper import update_here
from mamplus_host.clock import DeviceClock
from mamplus_host.errors import BleInvalid, BleWrongDevice
from mamplus_host.policy import policy
from mamplus_host.verdicts import Verdict
from tests.enterprise.company import Company, FakeDevice, opened
from tests.journey.repository import DEVICE_ID, Repository
from tests.journey.served import files, served

DAY_S = 86_400


def add(company: Company, value: str, layer: Layer, *, until: int = 0, verdict: Verdict = Verdict.BLOCK) -> None:
    store = Store(Home.open(company.dir))
    draft = author.Draft(kind=Kind.DOMAIN, value=value, verdict=verdict, valid_until=until, layer=layer)
    with store.writing() as session:
        author.add(session, draft, who="test")
    store.close()


def draft(value: str) -> author.Draft:
    return author.Draft(kind=Kind.DOMAIN, value=value, verdict=Verdict.BLOCK)


def numbers(company: Company) -> dict[str, int]:
    return {layer.word: state.number for layer, state in repository.layers(Home.open(company.dir)).items()}


def in_days(days: float) -> int:
    return int(time.time() + days * DAY_S)


def export_for(company: Company, out: Path, device: str) -> None:
    """Write a carrier for a device that need not be enrolled: the command asks for that, the export does not."""
    home = Home.open(company.dir)
    export(home, load_signers(home, None, (CARRIER,)), out, device=device)


class Device:
    """A device that is enrolled with a company, and reads its repository as a directory."""

    def __init__(self, company: Company, state: Path) -> None:
        self.company, self.state = company, state
        (state / "trust").mkdir(parents=True)
        (state / "identity").mkdir()
        (state / "trust" / "root.json").write_bytes(repository.newest_root(Home.open(company.dir)))
        Repository.belong(state, "https://127.0.0.1:1", "0" * 64)

    def update(self) -> list[str]:
        """Return the deltas that an update took; the list's name when it took that."""
        return list(update_here(self.state, str(self.company.dir / "repository")).patched)


def test_each_layer_that_changed_takes_the_next_number_and_no_other(quiet: Company) -> None:
    add(quiet, "a.example", Layer.ENTERPRISE)
    quiet.run("ble", "publish")
    add(quiet, "b.example", Layer.FEEDS, until=in_days(10))
    add(quiet, "c.example", Layer.EMERGENCY)
    said = quiet.run("ble", "publish")

    assert said == "published generation 4 with 3 entries\n"
    assert numbers(quiet) == {"enterprise": 2, "emergency": 3, "feeds": 4}


def test_one_layer_can_be_published_alone(quiet: Company) -> None:
    add(quiet, "a.example", Layer.ENTERPRISE)
    add(quiet, "b.example", Layer.FEEDS, until=in_days(10))

    quiet.run("ble", "publish", "--layer", "feeds")

    assert numbers(quiet) == {"enterprise": 1, "emergency": 1, "feeds": 2}


def test_a_draft_whose_key_is_away_does_not_hold_up_an_emergency(quiet: Company, tmp_path: Path) -> None:
    quiet.run("keys", "export", "ble-enterprise", tmp_path / "stick")
    add(quiet, "a.example", Layer.ENTERPRISE)
    add(quiet, "c.example", Layer.EMERGENCY)

    done = quiet.attempt("ble", "publish")
    nothing_left = quiet.attempt("ble", "publish")
    after = numbers(quiet)
    quiet.run("ble", "publish", "--keys", tmp_path / "stick")

    assert (done.returncode, after) == (0, {"enterprise": 1, "emergency": 2, "feeds": 1}), done.stderr
    assert "not published, for want of their keys: ble-enterprise; say --keys DIR" in done.stderr
    assert nothing_left.returncode == 1
    assert "role ble-enterprise wants 1 of its 1 keys" in nothing_left.stderr
    assert "--keys DIR" in nothing_left.stderr
    assert numbers(quiet) == {"enterprise": 3, "emergency": 2, "feeds": 1}


def test_a_layer_that_cannot_be_published_does_not_hold_up_an_emergency(quiet: Company) -> None:
    add(quiet, "a.example", Layer.ENTERPRISE)
    add(quiet, "b.example", Layer.FEEDS)  # has no end
    add(quiet, "c.example", Layer.EMERGENCY)

    done = quiet.attempt("ble", "publish")
    by_name = quiet.attempt("ble", "publish", "--layer", "feeds", "--layer", "enterprise")

    assert (done.returncode, "'b.example' with no end" in done.stderr) == (1, True), done.stderr
    assert done.stdout == "published generation 3 with 2 entries\n"
    assert numbers(quiet) == {"enterprise": 2, "emergency": 3, "feeds": 1}
    assert by_name.returncode == 1
    (waiting,) = (one for one in quiet.json("ble", "diff") if one["added"])
    assert waiting["layer"] == "feeds"


def test_more_texts_than_a_device_can_search_are_refused_in_words(
    quiet: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(quiet, "c.example", Layer.EMERGENCY)
    monkeypatch.setattr(encode, "MAX_FEW", 1)
    store = Store(Home.open(quiet.dir))
    with store.writing() as session:
        for user in ("eve", "mallory"):
            author.add(session, author.Draft(kind=Kind.USER, value=user, verdict=Verdict.BLOCK), who="test")
    home = Home.open(quiet.dir)

    done = publish(home, store, load_signers(home, None), Request("test", "because"))
    store.close()

    assert [("2 entries of kind user" in why, "layer enterprise was not" in why) for why in done.failed] == [
        (True, True)
    ]
    assert numbers(quiet) == {"enterprise": 1, "emergency": 2, "feeds": 1}


@pytest.mark.parametrize(
    ("layer", "fields", "words"),
    [
        (Layer.FEEDS, {}, "no end"),
        (Layer.FEEDS, {"until": in_days(200)}, "no end, or one more than 90 days"),
        (Layer.FEEDS, {"until": in_days(10), "verdict": Verdict.ALLOW}, "other than block and suspect"),
        (Layer.EMERGENCY, {"verdict": Verdict.ALLOW}, "other than block and suspect"),
    ],
)
def test_what_a_layers_key_may_not_say_is_refused_before_it_signs(
    quiet: Company, layer: Layer, fields: dict[str, object], words: str
) -> None:
    add(quiet, "shop.example", layer, **fields)  # type: ignore[arg-type]

    refused = quiet.attempt("ble", "publish")

    assert refused.returncode == 1
    assert words in refused.stderr
    assert "'shop.example'" in refused.stderr
    assert set(numbers(quiet).values()) == {1}


def test_the_newest_deltas_are_kept_and_a_device_follows_them(quiet: Company, tmp_path: Path) -> None:
    home = Home.open(quiet.dir)
    store, signers = Store(home), load_signers(home, None)
    with store.writing() as session:
        for number in range(300):
            author.add(
                session, author.Draft(kind=Kind.DOMAIN, value=f"n{number}.example", verdict=Verdict.BLOCK), who="t"
            )
    publish(home, store, signers, Request("test", "many"))
    device = Device(quiet, tmp_path / "device")
    device.update()
    for number in range(shelf.KEPT_DELTAS + 3):
        with store.writing() as session:
            author.add(
                session, author.Draft(kind=Kind.DOMAIN, value=f"x{number}.example", verdict=Verdict.BLOCK), who="t"
            )
        publish(home, store, signers, Request("test", "one more"))
        if number == 2:
            assert device.update() == [f"enterprise-{at}-{at + 1}.delta.mble" for at in (2, 3, 4)]
    store.close()

    folder = home.targets / "ble-enterprise"
    role = repository.read(home).delegated["ble-enterprise"]
    assert len([name for name in role.targets if name.endswith(".delta")]) == shelf.KEPT_DELTAS
    assert len(list(folder.glob("*.delta"))) <= shelf.KEPT_DELTAS + repository.KEPT_VERSIONS
    assert len(list(folder.glob("*.list.mble"))) == shelf.KEPT_LISTS
    assert not [path for path in folder.iterdir() if path.suffix not in (".mble", ".delta")]
    assert len(device.update()) == shelf.KEPT_DELTAS


def test_a_publisher_that_died_before_its_row_is_followed_by_a_list_without_a_delta(
    quiet: Company, tmp_path: Path
) -> None:
    add(quiet, "a.example", Layer.ENTERPRISE)
    quiet.run("ble", "publish")
    quiet.change("DELETE FROM generations WHERE number = 2")
    device = Device(quiet, tmp_path / "device")
    device.update()
    add(quiet, "b.example", Layer.ENTERPRISE)
    quiet.run("ble", "publish")

    assert device.update() == []
    assert numbers(quiet)["enterprise"] == 3


def test_a_server_without_the_administrators_key_blocks_at_once_and_says_how(company: Company) -> None:
    for key in (company.dir / "keys").glob("ble-enterprise.*"):
        key.rename(company.dir / key.name)
    company.stop()
    company.serve()
    value = hashlib.sha256(b"tool").hexdigest()
    alert = company.device().sent(indicator={"kind": "sha256", "value": value})

    answer = company.admin("POST", f"/alerts/{alert}/confirm", {"reason": "seen"})

    assert (answer.status, answer.body["layer"], answer.body["generation"]) == (200, "emergency", 2)
    assert numbers(company) == {"enterprise": 1, "emergency": 2, "feeds": 1}


def test_a_server_without_the_administrators_key_allows_nothing_and_leaves_the_alert_open(company: Company) -> None:
    for key in (company.dir / "keys").glob("ble-enterprise.*"):
        key.rename(company.dir / key.name)
    company.stop()
    company.serve()
    value = hashlib.sha256(b"tool").hexdigest()
    alert = company.device().sent(indicator={"kind": "sha256", "value": value})

    answer = company.admin("POST", f"/alerts/{alert}/dismiss", {"reason": "ours"})
    open_still = [one["state"] for one in company.admin("GET", "/alerts").body]
    written = company.json("ble", "list")["entries"]
    for key in company.dir.glob("ble-enterprise.*"):
        key.rename(company.dir / "keys" / key.name)
    company.run("alerts", "dismiss", alert)

    assert (answer.status, open_still, written) == (500, ["open"], [])
    assert "role ble-enterprise wants 1 of its 1 keys" in answer.body["detail"]
    assert numbers(company) == {"enterprise": 2, "emergency": 1, "feeds": 1}


def test_a_block_is_not_hidden_below_an_allow_of_the_administrators(company: Company) -> None:
    """Below an `allow` the emergency layer's block would count for nothing: the answer waits for the key."""
    value = hashlib.sha256(b"tool").hexdigest()
    company.run("ble", "add", "sha256", value, "--verdict", "allow")
    company.run("ble", "publish")
    for key in (company.dir / "keys").glob("ble-enterprise.*"):
        key.rename(company.dir / key.name)
    company.stop()
    company.serve()
    alert = company.device().sent(indicator={"kind": "sha256", "value": value})

    answer = company.admin("POST", f"/alerts/{alert}/confirm", {"reason": "seen"})

    assert answer.status == 500
    assert "role ble-enterprise" in answer.body["detail"]


def test_every_role_is_renewed_before_it_ends(quiet: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home.open(quiet.dir)
    signers = load_signers(home, None, SIGNING)
    every = ["root", "targets", "snapshot", "timestamp", "policy", *(layer.role for layer in Layer)]
    assert repository.aged(home) == []
    monkeypatch.setattr("mamplus_enterprise.ble.roles.is_aged", lambda _role, _expires: True)

    online = repository.renew(home, {role: signers[role] for role in ONLINE})
    all_of_them = repository.renew(home, signers)

    assert (online, all_of_them) == ([role for role in every if role not in ("root", "targets")], every)
    assert repository.read(home).root.version == 2


def published_at(company: Company, monkeypatch: pytest.MonkeyPatch, ahead_s: float) -> None:
    """Publish in this process, whose clock is that much ahead."""
    home, real = Home.open(company.dir), time.time
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: real() + ahead_s)
        store = Store(home)
        publish(home, store, load_signers(home, None, SIGNING), Request("test", "a clock that is ahead"))
        store.close()


def test_a_clock_that_was_days_ahead_once_stops_the_next_publication_and_says_the_way_out(
    quiet: Company, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices would refuse all that comes: it says to be older than what they have seen signed."""
    device = Device(quiet, tmp_path / "device")
    published_at(quiet, monkeypatch, 2 * DAY_S)
    device.update()
    assert DeviceClock(device.state).signed_s > time.time() + DAY_S

    refused = quiet.attempt("ble", "publish")
    assert (refused.returncode, "set the clock if it is wrong now" in refused.stderr) == (1, True)
    quiet.run("root", "rotate", "--role", "snapshot", "--role", "timestamp")
    quiet.run("ble", "publish")
    device.update()

    assert abs(DeviceClock(device.state).signed_s - time.time()) < 60


def test_a_clock_that_was_hours_ahead_once_stops_nothing(
    quiet: Company, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(quiet, tmp_path / "device")
    published_at(quiet, monkeypatch, 20 * 3600)
    device.update()
    signed_s = DeviceClock(device.state).signed_s
    add(quiet, "a.example", Layer.ENTERPRISE)

    quiet.run("ble", "publish")

    assert device.update() != []
    assert DeviceClock(device.state).signed_s == signed_s, "never lower, so no list is younger than what is signed"


def test_a_carrier_is_a_file_for_a_device_that_is_enrolled(company: Company, tmp_path: Path) -> None:
    stranger = company.attempt("ble", "export", tmp_path / "x.tar", "--device", "ab" * 32)
    nowhere = company.attempt("ble", "export", "-")
    company.run("ble", "export", tmp_path / "ours.tar", "--device", company.device().id)

    assert (stranger.returncode, f"no device {'ab' * 32} is enrolled" in stranger.stderr) == (1, True)
    assert (nowhere.returncode, "a carrier is a file" in nowhere.stderr) == (2, True)
    assert not Path("-").exists()
    assert [path.name for path in tmp_path.glob("*.tar")] == ["ours.tar"]


def test_a_carrier_for_one_device_says_so_in_its_timestamp(quiet: Company, tmp_path: Path) -> None:
    export_for(quiet, tmp_path / "c.tar", "ab" * 32)
    refused = quiet.attempt("ble", "export", tmp_path / "d.tar", "--device", "someone")

    assert b'"device":"' + b"ab" * 32 in (tmp_path / "c.tar").read_bytes()
    assert (refused.returncode, "64 hex digits" in refused.stderr) == (2, True)


def test_a_server_that_runs_signs_with_the_new_keys_after_a_rotation(company: Company, tmp_path: Path) -> None:
    rotated = ("timestamp", "snapshot", "ble-enterprise")
    company.run("root", "rotate", *(word for role in rotated for word in ("--role", role)))
    value = hashlib.sha256(b"tool").hexdigest()
    alert = company.device().sent(indicator={"kind": "sha256", "value": value})

    answer = company.admin("POST", f"/alerts/{alert}/confirm", {"reason": "seen"})

    assert (answer.status, answer.body["layer"]) == (200, "enterprise")
    device = Device(company, tmp_path / "device")
    device.update()
    assert numbers(company)["enterprise"] == 2


def test_who_enrols_after_a_rotation_never_trusts_the_keys_of_before(company: Company) -> None:
    company.run("root", "rotate")
    company.run("root", "rotate")
    newcomer = company.device("late")

    newest = (company.dir / "repository" / "metadata" / "3.root.json").read_bytes()
    token = opened(company.admin("POST", "/tokens").body["token"])
    again = FakeDevice(company, "later").enroll(token["secret"])

    assert newcomer.id
    assert base64.b64decode(again.body["root"]) == newest


def test_the_policy_is_signed_by_its_own_role_and_reaches_the_device(quiet: Company, tmp_path: Path) -> None:
    device = Device(quiet, tmp_path / "device")
    device.update()
    (tmp_path / "policy.json").write_text(quiet.run("policy", "show").replace('"version": 0', '"version": 1'))
    quiet.run("policy", "set", tmp_path / "policy.json")
    assert policy.load(device.state)[0].version == 0

    quiet.run("ble", "publish")
    device.update()

    assert policy.load(device.state) == (policy.parse((quiet.dir / "policy.json").read_bytes()), "")
    assert policy.load(device.state)[0].version == 1


def test_a_carrier_reaches_the_device_that_it_is_for_and_no_other(quiet: Company, tmp_path: Path) -> None:
    device = Device(quiet, tmp_path / "device")
    device.update()
    add(quiet, "a.example", Layer.ENTERPRISE)
    quiet.run("ble", "publish")
    export_for(quiet, tmp_path / "other.tar", "ab" * 32)
    export_for(quiet, tmp_path / "mine.tar", DEVICE_ID)

    with pytest.raises(BleWrongDevice, match="made for device 'abab"):
        update_here(device.state, str(tmp_path / "other.tar"))
    assert update_here(device.state, str(tmp_path / "mine.tar")).generation == 2


def test_a_carriers_files_behind_a_web_server_are_refused(quiet: Company, tmp_path: Path) -> None:
    """Whoever unpacks a stick and serves it cannot hold a connected device on it."""
    quiet.run("ble", "export", tmp_path / "stick.tar")
    device = Device(quiet, tmp_path / "device")
    with tarfile.open(tmp_path / "stick.tar") as archive:
        content = {one.name: archive.extractfile(one).read() for one in archive.getmembers()}  # type: ignore[union-attr]
    with served(files(content)) as server:
        Repository.belong(device.state, server.url, "")
        with pytest.raises(BleInvalid, match="is a carrier's, and this is the network"):
            update_here(device.state, None)


def test_a_carrier_of_a_key_that_was_rotated_is_refused(quiet: Company, tmp_path: Path) -> None:
    quiet.run("ble", "export", tmp_path / "old.tar")
    quiet.run("root", "rotate", "--role", "carrier")
    quiet.run("ble", "export", tmp_path / "new.tar")
    device = Device(quiet, tmp_path / "device")

    with pytest.raises(BleInvalid, match="not signed by this device's enterprise"):
        update_here(device.state, str(tmp_path / "old.tar"))
    assert update_here(device.state, str(tmp_path / "new.tar")).new
