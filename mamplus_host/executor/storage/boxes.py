# SPDX-License-Identifier: Apache-2.0
"""The boxes of this device: `state/quarantine/`, one encrypted file and one page of facts for each quarantined file.

Journey: quarantine -> [boxes] -> box_helper, disk.

    key        32 random bytes, mode 0600; made when the first file comes
    ID.box     the content; whole or not there
    ID.json    what the file was, where it lay; written after the box, so a page means that the box is whole
    ID.was     the same of a file that is back, where it had changed between the first look and the box
"""

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mamplus_host.errors import ActionFailed
from mamplus_host.executor import helper
from mamplus_host.executor.steps import step
from mamplus_host.files import put_in_place, sync_directory, write_whole

MAGIC = b"MAMPBOX1"
HEADER_BYTES, TAG_BYTES, PIECE_BYTES = 48, 16, 1 << 20
HELPER_MIN_S = 30.0
_BYTES_PER_S = 8 << 20  # that the slowest device encrypts
MAX_BOXES = 10_000
MAX_REMEMBERED = 100

Page = dict[str, Any]


class Boxes:
    """One directory of boxes. One process, one thread."""

    def __init__(self, directory: Path, *, max_bytes: int, alive: Callable[[], object] = int) -> None:
        """`alive` is called while a file is encrypted: the watchdog must not end the agent meanwhile."""
        self.directory, self._max_bytes, self._alive = directory, max_bytes, alive

    def page(self, action_id: str) -> Page | None:
        """Return the facts of a kept file, None when it is not kept."""
        try:
            page: Page = json.loads(self._page(action_id).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            raise ActionFailed(
                f"{str(self._page(action_id))!r} is damaged; `mamplus quarantine export` still reads the box"
            ) from None
        return page

    def pages(self) -> list[Page]:
        """Return the facts of all kept files, oldest first."""
        found = [self.page(path.stem) for path in sorted(self.directory.glob("*.json"))[:MAX_BOXES]]
        return [page for page in found if page is not None]

    def is_whole(self, action_id: str, size: int) -> bool:
        """Whether there is a box of the length that `size` bytes make, with our head."""
        try:
            with self.box(action_id).open("rb") as file:
                head = file.read(HEADER_BYTES)
                return head.startswith(MAGIC) and os.fstat(file.fileno()).st_size == boxed_bytes(size)
        except FileNotFoundError:
            return False

    def keep(self, action_id: str, source: int, size: int) -> tuple[str, int]:
        """Make the box of descriptor `source`, about `size` bytes; return its SHA-256 and bytes as they were read."""
        self._make_room(action_id, size)
        beside = self.directory / f".{action_id}.new"
        target = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            content = self._help("pack", action_id, source, target, size)
            step("quarantine.boxed")
            put_in_place(beside, self.box(action_id))
        finally:
            os.close(target)
            beside.unlink(missing_ok=True)
        return content

    def write(self, action_id: str, page: Page) -> None:
        """Keep the facts of a file, for good."""
        write_whole(self._page(action_id), json.dumps(page, ensure_ascii=True).encode("ascii"))

    def unpack(self, action_id: str, target: int, size: int) -> tuple[str, int]:
        """Write the content of a box to descriptor `target`; ActionFailed when it is damaged."""
        try:
            with self.box(action_id).open("rb") as file:
                return self._help("unpack", action_id, file.fileno(), target, size)
        except FileNotFoundError:
            raise ActionFailed(f"the box of {action_id} is gone from {str(self.directory)!r}") from None

    def was(self, action_id: str) -> Page | None:
        """Return what is remembered of a file that is back, where that is not what its first look had told."""
        try:
            page: Page = json.loads(self._was(action_id).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return page

    def remember(self, action_id: str, page: Page) -> None:
        write_whole(self._was(action_id), json.dumps(page, ensure_ascii=True).encode("ascii"))
        for path in sorted(self.directory.glob("*.was"))[:-MAX_REMEMBERED]:
            path.unlink()

    def drop(self, action_id: str) -> None:
        """Forget a file: the box first, so that a page without one is the rest of this."""
        for path in (self.box(action_id), self.directory / f".{action_id}.new", self._page(action_id)):
            if path.exists():
                step("quarantine.drop")
                path.unlink()
                sync_directory(self.directory)

    def box(self, action_id: str) -> Path:
        return self.directory / f"{action_id}.box"

    def _was(self, action_id: str) -> Path:
        return self.directory / f"{action_id}.was"

    def _page(self, action_id: str) -> Path:
        return self.directory / f"{action_id}.json"

    def _make_room(self, action_id: str, size: int) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.box(action_id).unlink(missing_ok=True)  # of a cut-off try: without a page it is nobody's
        self.want_room(size)

    def want_room(self, size: int) -> None:
        """Raise ActionFailed when a file of `size` bytes does not fit."""
        used = sum(path.stat().st_size for path in self.directory.glob("*.box"))
        if used + boxed_bytes(size) > self._max_bytes:
            raise ActionFailed(
                f"{size} bytes do not fit into the quarantine: {used} of {self._max_bytes} are in use"
                " ([limits] quarantine_bytes); restore or export what is there"
            )

    def _help(self, command: str, action_id: str, source: int, target: int, size: int) -> tuple[str, int]:
        with self._key() as key:
            numbers, within_s = (source, target, key), HELPER_MIN_S + size / _BYTES_PER_S
            answer = json.loads(
                helper.run(
                    "storage.box_helper", command, action_id, *map(str, numbers), within_s=within_s, keeps=numbers,
                    late=f"the file was not encrypted within {within_s:.0f} s; is the disk broken?", alive=self._alive,
                )
            )  # fmt: skip
        return str(answer["sha256"]), int(answer["size"])

    @contextmanager
    def _key(self) -> Iterator[int]:
        path = self.directory / "key"
        if not path.exists():
            if next(self.directory.glob("*.box"), None) is not None:
                raise ActionFailed(f"{str(path)!r} is gone: what lies beside it cannot be read any more")
            write_whole(path, secrets.token_bytes(32), mode=0o600)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def boxed_bytes(size: int) -> int:
    """Return how long the box of a file of `size` bytes is."""
    return HEADER_BYTES + size + max(1, -(-size // PIECE_BYTES)) * TAG_BYTES
