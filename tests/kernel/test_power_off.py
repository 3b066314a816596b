# SPDX-License-Identifier: Apache-2.0
"""The power goes and takes what was not on the disk along: real deeds, state and targets on an ext4, at every moment.

tests/journey/test_power_cuts.py ends the agent and leaves the page cache; here the page cache is what is lost. The
next agent starts on the disk as it was: what was begun is done or not, the journal says which, and nothing is twice.
"""

import base64
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mamplus_host.config import Container
from mamplus_host.executor.actions.evidence import Evidence
from mamplus_host.executor.actions.isolate import Isolate
from mamplus_host.executor.actions.quarantine import Quarantine
from mamplus_host.executor.actions.refuse import Refuse
from mamplus_host.executor.actions.restore import Restore
from mamplus_host.executor.actions.wipe import Wipe
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.network.refusals import Network
from mamplus_host.executor.receipts import Receipts
from mamplus_host.executor.shape import Deed
from mamplus_host.executor.storage import wipe_helper
from mamplus_host.executor.storage.boxes import Boxes
from mamplus_host.kernel import refusals
from mamplus_host.kernel.refusals import Wanted
from mamplus_host.maintenance import order as orders
from mamplus_host.maintenance.order import Order, Orders
from mamplus_host.sealed import unseal
from mamplus_host.verdicts import ActionKind, Outcome
from tests.journey.acting import Device, Setting
from tests.journey.test_power_cuts import MEMORY, look
from tests.kernel.cut import Disk

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(900)]
DEVICE_KEY, SEAL_KEY = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
HOST = "192.0.2.7"
SECRET = b"company secret " * 500
DAMAGE = "damaged " * 2000
REPORTS = ("report", "deep/plan", "deep/list")
KEPT = (ActionKind.QUARANTINE, ActionKind.REFUSE, ActionKind.ISOLATE, ActionKind.LOCK)
KINDS = (*KEPT, ActionKind.EVIDENCE, ActionKind.RESTORE, ActionKind.WIPE)
KERNEL = SimpleNamespace(wanted=Wanted())  # what the hooks refuse; they forget it with the power


class Trusting(Orders):
    """Orders whose signatures are believed: tests/enterprise/test_orders.py is about them."""

    def _want_genuine(self, order: Order, data: bytes, signature: bytes) -> None:
        pass


class InOneProcess(Wipe):
    """Its helper works in this process: the power goes between its steps, too."""

    def _help(self, command: str, path: str) -> dict[str, Any]:
        return wipe_helper.COMMANDS[command](path)


class Hooked(Network):
    """Has one set of hooks, those of KERNEL."""

    def _directories(self) -> list[Path]:
        return [self._config.state]

    def _tell(self, wanted: Wanted) -> None:
        pass


class Whole(Device):
    """A device with the real deeds, as far as they leave something on its disk, and one that stands for the others."""

    def __init__(self, directory: Path, *, boot: int = 1) -> None:
        self.work, self.loot = directory / "work", directory / "loot"
        super().__init__(directory, boot=boot)

    def deeds(self) -> dict[ActionKind, Deed]:
        state, guarded = self.config.state, GuardSet()
        self.network = Hooked(self.config, self.clock)
        self.network.enforce()
        self.receipts = Receipts(state / "receipts", lambda: DEVICE_KEY.sign)
        self.boxes = Boxes(state / "quarantine", max_bytes=1 << 30)
        self.evidence = Evidence(
            state / "evidence", max_bytes=1 << 30, clock=self.clock,
            key=lambda: SEAL_KEY.public_key().public_bytes_raw(),
        )  # fmt: skip
        found: list[Deed] = [
            Quarantine(self.boxes, guarded, clock=self.clock), self.evidence, Restore(self.vault, self.clock),
            Refuse(self.network, None, guarded), Isolate(self.network),  # type: ignore[arg-type]
            InOneProcess(
                Container(paths=(str(self.work),)), Trusting(state, lambda: 0.0), self.receipts, clock=self.clock
            ),
            Setting(ActionKind.LOCK),
        ]  # fmt: skip
        return {deed.kind: deed for deed in found}

    def furnish(self) -> None:
        """Have all that deeds are done to."""
        self.loot.write_bytes(SECRET)
        self.loot.chmod(0o4751)
        (self.files / "below").mkdir()
        os.link(self.loot, self.files / "below" / "second")
        (self.work / "deep").mkdir(parents=True)
        for name in REPORTS:
            (self.work / name).write_bytes(SECRET)
        self.file("one")
        self.file("kept", "golden")
        self.vault.protect(self.files / "kept")
        self.file("kept", DAMAGE)

    def begin(self) -> None:
        """Start as the service does: what a power cut left, then what was begun, then what nobody watched."""
        self.vault.sweep_all()
        self.executor.recover()
        for path in self.vault.paths():
            if self.executor.is_damaged(path):
                self.executor.start(ActionKind.RESTORE, {"path": path})
        self.vault.settle()
        self.network.enforce()

    def do(self, kind: ActionKind) -> Outcome:
        """Do one action to its end: what stood in a file's place is kept a moment later."""
        done = self.executor.start(kind, self.target(kind))
        self.vault.settle()
        return done

    def seen(self, kind: ActionKind) -> str:
        """Look at the disk, and at what the kernel was told: "old", "new", or what else is there."""
        looks: dict[ActionKind, Callable[[], str]] = {
            ActionKind.QUARANTINE: self._boxed, ActionKind.EVIDENCE: self._sealed, ActionKind.RESTORE: self._restored,
            ActionKind.REFUSE: lambda: self._refused("host"), ActionKind.ISOLATE: lambda: self._refused("isolate"),
            ActionKind.WIPE: self._wiped, ActionKind.LOCK: self._set,
        }  # fmt: skip
        return looks[kind]()

    def _boxed(self) -> str:
        names = [self.loot, self.files / "below" / "second"]
        here = [name for name in names if name.exists()]
        pages, boxes = self.boxes.pages(), list(self.boxes.directory.glob("*.box"))
        if not here and len(pages) == len(boxes) == 1 and self.boxes.is_whole(pages[0]["id"], pages[0]["size"]):
            return "new"
        is_whole = here == names and names[0].samefile(names[1]) and self.loot.read_bytes() == SECRET
        if is_whole and self.loot.stat().st_mode & 0o7777 == 0o4751 and not pages and not boxes:
            return "old"
        return f"names {here}, {len(pages)} pages, {len(boxes)} boxes"

    def _sealed(self) -> str:
        kept = list((self.config.state / "evidence").glob("*.sealed"))
        return "new" if [json.loads(unseal(one.read_bytes(), [SEAL_KEY]))["paths"] for one in kept] else "old"

    def _restored(self) -> str:
        content = (self.files / "kept").read_text()
        return {"golden": "new", DAMAGE: "old"}.get(content, f"{len(content)} bytes of something else")

    def _refused(self, kind: str) -> str:
        noted = any(one.kind == kind for one in self.network.all().values())
        told = bool(KERNEL.wanted.hosts) if kind == "host" else KERNEL.wanted.isolated_until_ns > 0
        return ("new" if noted else "old") if noted == told else f"noted: {noted}, refused: {told}"

    def _wiped(self) -> str:
        left = sorted(str(path.relative_to(self.work)) for path in self.work.rglob("*") if path.is_file())
        receipts = [json.loads(path.read_bytes()) for path in (self.config.state / "receipts").glob("*.json")]
        for one in receipts:
            signature = base64.b64decode(one["signature"])
            DEVICE_KEY.public_key().verify(signature, b"mamplus-receipt\n" + one["receipt"].encode())
        if not any(self.work.iterdir()) and len(receipts) == 1:
            return "new"
        return "old" if left == sorted(REPORTS) and not receipts else f"left {left}, {len(receipts)} receipts"

    def _set(self) -> str:
        found = look(self.files / "one")
        return {("lock", 0o400): "new", ("as it was", 0o640): "old"}.get(found or ("", 0), str(found))

    def target(self, kind: ActionKind) -> dict[str, Any]:
        order = Order(what="wipe", device="d", id="0" * 16, expires_s=1 << 40, reason="stolen")
        targets: dict[ActionKind, dict[str, Any]] = {
            ActionKind.QUARANTINE: {"path": str(self.loot)}, ActionKind.EVIDENCE: {"path": str(self.loot)},
            ActionKind.RESTORE: {"path": str(self.files / "kept")}, ActionKind.REFUSE: {"address": HOST},
            ActionKind.ISOLATE: {}, ActionKind.WIPE: {"order": orders.spell(orders.payload(order), b"s" * 64)},
            ActionKind.LOCK: {"path": str(self.files / "one")},
        }  # fmt: skip
        return targets[kind]

    def told(self, kind: ActionKind) -> str:
        """Return the last that the journal says of the first action of a kind, "" for nothing; each was said once."""
        said = [record.data for record in self.journal.records() if record.kind == "outcome"]
        assert all(number == 1 for number in Counter((one["id"], one["state"]) for one in said).values()), said
        own = sorted((one["id"], one["state"]) for one in said if one["action"] == kind)
        return "" if not own else [state for action_id, state in own if action_id == own[0][0]][-1]


def after(disk: Disk, image: Path) -> Whole:
    """Switch the device on again with its disk as it was."""
    disk.insert(image)
    KERNEL.wanted = Wanted()
    device = Whole(disk.point, boot=2)
    device.begin()
    assert device.is_chained()
    assert device.journal.open_intents() == []
    return device


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    def enforce(_directory: Path, wanted: Wanted) -> bool:
        KERNEL.wanted = wanted
        return True

    monkeypatch.setattr(refusals, "enforce", enforce)
    monkeypatch.setattr(refusals, "read", lambda _directory: KERNEL.wanted)
    with TemporaryDirectory(dir=MEMORY) as images:
        made = Disk(tmp_path / "disk", Path(images))
        yield made
        made.close()


def states_after(disk: Disk, images: list[Path], kind: ActionKind, allowed: set[str]) -> Counter[str]:
    """Start on each of these disks; return what was said of the action, which is what is seen and in force."""
    states = Counter[str]()
    for image in images:
        device = after(disk, image)
        said = device.told(kind)
        states[said] += 1
        assert said in allowed
        is_new = said == "done" or (kind is ActionKind.RESTORE and said == "")
        assert device.seen(kind) == ("new" if is_new else "old")
        is_kept = said == "done" and kind in KEPT
        assert {entry.kind for entry in device.executor._store.all()} == ({kind} if is_kept else set())
        device.close()
    return states


@pytest.mark.parametrize("saves_all", [False, True], ids=["what was synced", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_begun_when_the_power_goes_is_done_or_not_and_the_journal_says_which(
    disk: Disk, kind: ActionKind, saves_all: bool
) -> None:
    device = Whole(disk.point)
    device.furnish()
    disk.sync()
    images = disk.moments(lambda: device.do(kind), saves_all=saves_all)
    device.close()

    states = states_after(disk, images, kind, {"", "done"})
    assert states["done"]
    assert len(images) > 1


@pytest.mark.parametrize("saves_all", [False, True], ids=["what was synced", "all"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not ActionKind.WIPE])
def test_what_is_being_undone_when_the_power_goes_is_undone_or_was_not_begun(
    disk: Disk, kind: ActionKind, saves_all: bool
) -> None:
    device = Whole(disk.point)
    device.furnish()
    done = device.do(kind)
    disk.sync()
    images = disk.moments(lambda: device.executor.undo(done.decision_id), saves_all=saves_all)
    device.close()

    states = states_after(disk, images, kind, {"done", "undone"})
    assert states["undone"]
    assert len(images) > 1
