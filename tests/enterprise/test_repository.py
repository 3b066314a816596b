# SPDX-License-Identifier: Apache-2.0
"""The signed repository, read by the client that devices use, python-tuf's."""

import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer  # type: ignore[attr-defined]
from tuf.api.metadata import Metadata, Root, Timestamp  # type: ignore[attr-defined]
from tuf.ngclient.updater import Updater

from mamplus_enterprise.ble import repository, shelf
from mamplus_enterprise.ble.keys import load_signers
from mamplus_enterprise.ble.publish import Request, publish
from mamplus_enterprise.ble.roles import SIGNING
from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.store import Store
from mamplus_host.ble.format import Generation
from tests.enterprise.company import Company


def download(company: Company, folder: Path) -> Path:
    """Fetch the newest list as a device does, from nothing but its first root; return its file."""
    folder.mkdir(exist_ok=True)
    root = (company.dir / "repository" / "metadata" / "1.root.json").read_bytes()
    base = f"http://127.0.0.1:{company.port}/repo"
    updater = Updater(
        str(folder), f"{base}/metadata/", str(folder), f"{base}/targets/", bootstrap=root
    )  # fmt: skip
    target = updater.get_targetinfo("ble-enterprise/list.mble")
    assert target is not None
    path = Path(updater.download_target(target))
    with Generation.open(path) as generation:
        generation.check()
        said = {"generation": generation.number, "entries": generation.count, "root": generation.root.hex()}
        assert target.custom == said
    return path


def numbers(path: Path) -> tuple[int, int, bool]:
    with Generation.open(path) as generation:
        return generation.number, generation.count, generation.may_shrink


def test_a_device_trusts_what_is_served_and_follows_it(company: Company, tmp_path: Path) -> None:
    assert numbers(download(company, tmp_path / "tuf")) == (1, 0, True)
    company.run("ble", "add", "domain", "Bad.Example.", "--verdict", "block")
    assert numbers(download(company, tmp_path / "tuf")) == (1, 0, True), "adding alone must not publish"

    company.run("ble", "publish")

    path = download(company, tmp_path / "tuf")
    assert numbers(path) == (2, 1, False)
    with Generation.open(path) as generation:
        assert generation.entry(0).value == "bad.example"


def test_two_publishers_at_once_make_two_generations(company: Company, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda _: company.run("ble", "publish"), range(2)))

    assert sorted(said) == [f"published generation {number} with 0 entries\n" for number in (2, 3)]
    assert numbers(download(company, tmp_path / "tuf"))[0] == 3


def test_many_publishers_in_one_process_never_share_a_generation(quiet: Company) -> None:
    home = Home.open(quiet.dir)
    store, signers = Store(home), load_signers(home, None)

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda _: publish(home, store, signers, Request("test", "race")).generation, range(24)))

    store.close()
    assert sorted(made) == list(range(2, 26))
    assert repository.current(home).generation == 25


def test_an_emptied_or_halved_list_is_published_only_when_meant(company: Company, tmp_path: Path) -> None:
    for number in range(5):
        company.run("ble", "add", "ip", f"203.0.113.{number}", "--verdict", "block")
    company.run("ble", "publish")
    for entry in (1, 2, 3):
        company.run("ble", "remove", entry)

    refused = company.attempt("ble", "publish")
    assert (refused.returncode, "--allow-shrink" in refused.stderr) == (1, True)
    assert numbers(download(company, tmp_path / "tuf")) == (2, 5, False)
    company.run("ble", "publish", "--allow-shrink")
    company.run("ble", "publish")

    # Generation 4 is not smaller than 3, but a device that comes from 2 must take it too.
    assert numbers(download(company, tmp_path / "tuf")) == (4, 2, True)


def test_an_expired_entry_is_left_out(quiet: Company) -> None:
    quiet.run("ble", "add", "ip", "203.0.113.1", "--verdict", "block", "--until", "2100-01-01")
    quiet.run("ble", "add", "ip", "203.0.113.2", "--verdict", "block")
    quiet.change(f"UPDATE entries SET valid_until = {int(time.time()) - 1} WHERE value = '203.0.113.1'")

    assert "with 1 entries" in quiet.run("ble", "publish")
    assert [entry["expired"] for entry in quiet.json("ble", "list")["entries"]] == [True, False]


def test_nothing_but_the_repository_is_served_under_its_name(company: Company) -> None:
    names = (
        "/repo/metadata/../../admin.token", "/repo/metadata/%2e%2e%2f%2e%2e%2fadmin.token", "/repo/../admin.token",
        "/repo/keys/tls.pem", "/repo/targets/..%2f..%2fkeys%2ftls.pem", "/repo/metadata/", "/repo/metadata/root.json",
        "/repo/metadata/99.root.json", "/repo/targets/ble-feeds/" + "0" * 64 + ".list.mble", "/static/..%2fview.py",
        "/repo/targets/ble-feeds/../../../keys/tls.pem", "/repo/targets/ble-feeds/..%2f..%2f..%2fadmin.token",
    )  # fmt: skip

    assert {name: company.ask("GET", name).status for name in names} == dict.fromkeys(names, 404)
    assert company.ask("GET", "/repo/metadata/timestamp.json").headers["cache-control"] == "no-cache"


def test_a_carrier_holds_the_repository_and_nothing_else(quiet: Company, tmp_path: Path) -> None:
    quiet.run("ble", "add", "cidr", "198.51.100.0/24", "--verdict", "block")
    quiet.run("ble", "publish")
    out = tmp_path / "stick" / "ble.tar"
    out.parent.mkdir()

    quiet.run("ble", "export", out)

    with tarfile.open(out, "r:") as archive:
        members = archive.getmembers()
        for member in members:
            content = archive.extractfile(member)
            assert content is not None
            same = content.read() == (quiet.dir / "repository" / member.name).read_bytes()
            assert same == (member.name != "metadata/timestamp.json"), member.name  # that one is the carriers' own
    names = [member.name for member in members]
    assert names[:8] == [
        f"metadata/{name}.json"
        for name in (
            "timestamp", "1.root", "2.snapshot", "1.targets", "1.policy", "2.ble-enterprise", "1.ble-emergency",
            "1.ble-feeds",
        )
    ]  # fmt: skip
    of_layers = [(name.split("/")[1], name.rpartition(".")[2]) for name in names[8:]]
    assert of_layers == [
        ("ble-enterprise", "delta"), ("ble-enterprise", "mble"), ("ble-emergency", "mble"), ("ble-feeds", "mble"),
    ]  # fmt: skip
    assert {(member.uid, member.uname) for member in members} == {(0, "")}
    assert list(out.parent.iterdir()) == [out]


def test_old_versions_go_and_what_devices_read_stays(company: Company, tmp_path: Path) -> None:
    for _ in range(repository.KEPT_VERSIONS + 2):
        company.run("ble", "publish")

    kept = [path.name for path in (company.dir / "repository" / "metadata").glob("*.snapshot.json")]
    assert len(kept) == repository.KEPT_VERSIONS
    lists = list((company.dir / "repository" / "targets" / "ble-enterprise").glob("*.list.mble"))
    assert len(lists) == shelf.KEPT_LISTS
    assert numbers(download(company, tmp_path / "tuf"))[0] == repository.KEPT_VERSIONS + 3


def test_a_crash_before_the_timestamp_changes_nothing_and_the_next_publisher_goes_on(
    company: Company, tmp_path: Path
) -> None:
    obstacle = company.dir / "repository" / "metadata" / "2.snapshot.json"
    obstacle.mkdir()
    company.run("ble", "add", "ip", "203.0.113.7", "--verdict", "block")

    failed = company.attempt("ble", "publish")
    before = numbers(download(company, tmp_path / "tuf"))
    obstacle.rmdir()
    company.run("ble", "publish")

    assert (failed.returncode, "Traceback" in failed.stderr) == (1, False)
    assert before == (1, 0, True)
    assert numbers(download(company, tmp_path / "tuf")) == (2, 1, False)


def test_a_generation_without_its_row_is_never_numbered_again(quiet: Company) -> None:
    quiet.run("ble", "publish")
    quiet.change("DELETE FROM generations WHERE number = 2")

    assert "generation 3 " in quiet.run("ble", "publish")


def test_signatures_past_half_of_their_time_are_renewed_without_a_new_generation(quiet: Company) -> None:
    home = Home.open(quiet.dir)
    signers = load_signers(home, None, SIGNING)
    assert repository.renew(home, signers) == []
    _age(home.metadata / "timestamp.json", signers["timestamp"][0])

    assert repository.renew(home, signers) == ["timestamp"]

    fresh = Metadata[Timestamp].from_file(str(home.metadata / "timestamp.json")).signed
    assert fresh.expires > datetime.now(UTC) + timedelta(days=6)
    assert repository.current(home) == repository.Published(1, 0)


def test_a_root_that_ages_is_renewed_and_devices_follow_from_the_first(company: Company, tmp_path: Path) -> None:
    home = Home.open(company.dir)
    signers = load_signers(home, None, SIGNING)
    _age(home.metadata / "1.root.json", signers["root"][0])

    assert repository.renew(home, signers) == ["root"]

    assert numbers(download(company, tmp_path / "tuf"))[0] == 1
    followed = Metadata[Root].from_file(str(tmp_path / "tuf" / "root.json")).signed
    assert (followed.version, followed.expires > datetime.now(UTC) + timedelta(days=700)) == (2, True)


def _age(path: Path, signer: Signer) -> None:
    """Sign the metadata at `path` again as if it ended tomorrow."""
    metadata: Metadata[Any] = Metadata.from_file(str(path))
    metadata.signed.expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    metadata.sign(signer)
    metadata.to_file(str(path))
