# SPDX-License-Identifier: Apache-2.0
"""The repository in one file, for a USB stick: an uncompressed tar of what a device needs."""

import os
import tarfile
from pathlib import Path
from typing import IO

from mamplus_enterprise.ble import repository
from mamplus_enterprise.ble.repository import Published
from mamplus_enterprise.errors import PublishFailed
from mamplus_enterprise.home import Home
from mamplus_enterprise.lock import locked


def export(home: Home, out: Path) -> Published:
    """Write the current generation to `out`, whole or not at all."""
    beside = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        with locked(home.publish_lock), beside.open("wb") as file:
            published = repository.current(home)
            _write(home, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(out)
    except OSError as error:
        raise PublishFailed(f"cannot write {str(out)!r}: {error.strerror}; want a place that is writable") from None
    finally:
        beside.unlink(missing_ok=True)
    return published


def _write(home: Home, file: IO[bytes]) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in repository.current_files(home):
            member = archive.gettarinfo(str(path), f"{path.parent.name}/{path.name}")
            # Names and numbers of the people who work at the enterprise are nobody else's business.
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mode = 0o644
            with path.open("rb") as content:
                archive.addfile(member, content)
