# SPDX-License-Identifier: Apache-2.0
"""Evidence: a snapshot has what it says, within its bounds, and only the enterprise reads it."""

import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mamplus_host.clock import SystemClock
from mamplus_host.errors import ActionFailed
from mamplus_host.executor.actions.evidence import Evidence
from mamplus_host.executor.evidence import snapshot
from mamplus_host.executor.evidence.snapshot import Limits
from mamplus_host.executor.shape import State
from mamplus_host.sealed import unseal
from tests.kernel.cut import each_cut

pytestmark = pytest.mark.kernel
ID = "01JD0000000000000000000000-evidence"
SUSPECT = "import os,socket,sys; s=socket.create_server(('127.0.0.1',0)); f=open(sys.argv[1]); print(s.getsockname()[1], flush=True); os.fork(); os.read(0,1)"  # noqa: E501
KEY = X25519PrivateKey.generate()


@pytest.fixture
def suspect(tmp_path: Path) -> Iterator[tuple[int, int, Path]]:
    """A process with a child, a listening socket and an open file; its number, its port, the file."""
    held = tmp_path / "held"
    held.write_bytes(b"loot")
    with subprocess.Popen(
        [sys.executable, "-c", SUSPECT, held], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={"SECRET": "hunter2", "PATH": os.environ["PATH"]},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        port = int(process.stdout.readline())
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while children.exists() and not children.read_text().strip():
            os.sched_yield()
        yield process.pid, port, held
        process.kill()


def made(directory: Path, max_bytes: int = 1 << 30, key: bytes | None = None) -> Evidence:
    public = KEY.public_key().public_bytes_raw() if key is None else key or None
    return Evidence(directory, max_bytes=max_bytes, clock=SystemClock(), key=lambda: public)


def opened(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(unseal(path.read_bytes(), [KEY]))
    return content


def test_a_snapshot_has_the_family_what_it_maps_holds_open_and_talks_to_and_samples_of_files(
    suspect: tuple[int, int, Path], tmp_path: Path
) -> None:
    tgid, port, held = suspect
    deed = made(tmp_path / "evidence")
    facts = deed.prepare(ID, {"tgid": tgid, "path": str(held), "alert": "01JDALERT", "reason": "listed"})
    assert deed.verify(facts) is State.UNDONE

    deed.do(facts)

    assert deed.verify(facts) is State.DONE
    found = opened(deed.place(ID))
    first, second = found["processes"][:2]
    assert first["pid"] == tgid
    assert second["ppid"] == tgid
    assert found["ancestry"][1]["pid"] == os.getpid()
    assert any("libc" in line for line in first["maps"])
    assert any(str(held) in line for line in first["open"])
    assert f"127.0.0.1:{port}" in {one["local"] for one in first["sockets"]}
    assert found["alert"] == "01JDALERT"
    sample = found["files"][0]
    assert base64.b64decode(sample["sample"]) == b"loot"
    assert sample["sha256"] == hashlib.sha256(b"loot").hexdigest()
    assert "hunter2" not in json.dumps(found), "the environment left the device"


def test_only_the_enterprise_reads_a_snapshot_and_undo_deletes_it(
    suspect: tuple[int, int, Path], tmp_path: Path
) -> None:
    deed = made(tmp_path / "evidence")
    facts = deed.prepare(ID, {"tgid": suspect[0]})
    deed.do(facts)
    assert b"loot" not in deed.place(ID).read_bytes()
    assert deed.place(ID).stat().st_mode & 0o777 == 0o600

    deed.undo(facts)
    assert deed.verify(facts) is State.UNDONE
    deed.undo(facts)


def test_a_program_that_deleted_itself_is_sampled_all_the_same(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    shutil.copy("/bin/sleep", tool)
    with subprocess.Popen([tool, "1000"]) as process:
        tool.unlink()
        found = snapshot.take(process.pid, ())
        process.kill()
    assert base64.b64decode(found["files"][0]["sample"]) == Path("/bin/sleep").read_bytes()[: 1 << 20]
    assert found["files"][0]["path"].endswith("(deleted)")


def test_every_bound_holds_and_says_what_it_cut(suspect: tuple[int, int, Path], tmp_path: Path) -> None:
    tgid, _port, held = suspect
    large = tmp_path / "large"
    large.write_bytes(bytes(5000))
    bounds = Limits(processes=1, maps=3, files=2, sockets=0, samples=1, sample_bytes=100)

    found = snapshot.take(tgid, (str(large), str(held)), bounds)

    (process,) = found["processes"]
    assert (len(process["maps"]), len(process["open"]), process["sockets"]) == (3, 2, [])
    assert len(base64.b64decode(found["files"][0]["sample"])) == 100
    said = " ".join(found["cut"])
    for what in ("1 processes", "4900 bytes", repr(str(held))):
        assert what in said

    nothing = snapshot.take(tgid, (str(large),), Limits(seconds=-1))
    assert nothing["processes"] == []
    assert "no time left" in " ".join(nothing["cut"])
    assert "no bytes left" in " ".join(snapshot.take(tgid, (), Limits(text_bytes=0))["cut"])


def test_what_could_block_or_has_no_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "sock"))
    found = snapshot.take(0, (str(tmp_path / "fifo"), str(tmp_path / "sock"), "/dev/zero", "/proc/kmsg"))
    sock.close()
    assert [one["path"] for one in found["files"]] in ([], ["/proc/kmsg"])
    assert found["processes"] == []


def test_a_process_that_ended_or_another_of_its_number_leaves_the_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"loot")
    deed = made(tmp_path / "evidence")
    with subprocess.Popen(["sleep", "1000"]) as process:
        facts = deed.prepare(ID, {"tgid": process.pid, "path": str(tmp_path / "file")})
        process.kill()
    deed.do(facts)
    found = opened(deed.place(ID))
    assert found["processes"] == []
    assert base64.b64decode(found["files"][0]["sample"]) == b"loot"
    another = {**facts, "id": "01JD1-evidence", "tgid": os.getpid(), "start_ns": facts["start_ns"] + 1}
    deed.do(another)
    assert opened(deed.place("01JD1-evidence"))["processes"] == [], "another process of that number was looked at"
    with pytest.raises(ActionFailed, match="has ended"):
        deed.prepare(ID, {"tgid": facts["tgid"]})


def test_without_the_enterprises_key_nothing_is_collected(tmp_path: Path) -> None:
    with pytest.raises(ActionFailed, match="no key"):
        made(tmp_path / "evidence", key=b"").prepare(ID, {"tgid": os.getpid()})


def test_a_power_cut_at_each_step_leaves_a_whole_snapshot_or_none(
    suspect: tuple[int, int, Path], tmp_path: Path
) -> None:
    deed = made(tmp_path / "evidence")
    facts = deed.prepare(ID, {"tgid": suspect[0]})

    def ready_to_do() -> Callable[[], object]:
        deed.undo(facts)
        return lambda: deed.do(facts)

    def ready_to_undo() -> Callable[[], object]:
        deed.do(facts)
        return lambda: deed.undo(facts)

    for at in each_cut(ready_to_do):
        assert deed.verify(facts) is State.UNDONE, f"after a cut at step {at}"
        deed.do(facts)
        assert opened(deed.place(ID))["processes"]
    for at in each_cut(ready_to_undo):
        assert deed.verify(facts) is State.UNDONE or opened(deed.place(ID))["processes"], f"after a cut at step {at}"
        deed.undo(facts)
        assert deed.verify(facts) is State.UNDONE


def test_above_its_bound_the_oldest_snapshots_go(suspect: tuple[int, int, Path], tmp_path: Path) -> None:
    deed = made(tmp_path / "evidence", max_bytes=64 << 20)
    (tmp_path / "evidence").mkdir()
    for name, size in (("01JD1-evidence", 64 << 20), ("01JD2-evidence", 1)):
        with deed.place(name).open("wb") as file:
            file.truncate(size)

    deed.do(deed.prepare("01JD3-evidence", {"tgid": suspect[0]}))

    kept = sorted(path.stem for path in (tmp_path / "evidence").glob("*.sealed"))
    assert kept == ["01JD2-evidence", "01JD3-evidence"]


def test_room_is_made_beside_another_thread_that_makes_room(suspect: tuple[int, int, Path], tmp_path: Path) -> None:
    deed = made(tmp_path / "evidence", max_bytes=64 << 20)
    (tmp_path / "evidence").mkdir()
    deed.place("01JD1-evidence").symlink_to("gone")  # after it was listed
    with deed.place("01JD2-evidence").open("wb") as file:
        file.truncate(64 << 20)

    deed.do(deed.prepare("01JD3-evidence", {"tgid": suspect[0]}))

    assert not deed.place("01JD2-evidence").exists()


def test_a_storm_of_alerts_takes_twelve_snapshots_in_ten_minutes(tmp_path: Path) -> None:
    deed = made(tmp_path)
    for _ in range(12):
        deed.prepare(ID, {"tgid": os.getpid()})
    with pytest.raises(ActionFailed, match="no more than 12"):
        deed.prepare(ID, {"tgid": os.getpid()})


def test_no_link_is_followed_to_a_named_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"of root alone")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "secret").write_bytes(b"of root alone, too")
    (tmp_path / "link").symlink_to("secret")
    (tmp_path / "way").symlink_to("folder")

    found = snapshot.take(0, (str(tmp_path / "link"), str(tmp_path / "way" / "secret")))

    assert found["files"] == []
    assert len(found["cut"]) == 2


def test_nothing_of_the_kernels_own_is_sampled() -> None:
    paths = ("/proc/kcore", "/proc/version", "//proc/version", "/tmp/../proc/version", "/sys/kernel/mm/ksm/run")
    assert snapshot.take(0, paths)["files"] == []
