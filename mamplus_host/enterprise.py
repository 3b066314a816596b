# SPDX-License-Identifier: Apache-2.0
"""To whom this device belongs: what enrolment wrote down, and others read.

`state/identity/enterprise.json`: there when the device is enrolled. No secret is in it.
"""

from pathlib import Path

import msgspec

from mamplus_host.errors import EnrollRefused
from mamplus_host.pinned import Endpoint, endpoint


class Enterprise(msgspec.Struct, frozen=True):
    """To whom this device belongs."""

    url: str
    fingerprint: str  # of its certificate, SHA-256 of DER, hex; "": plain HTTP on loopback
    enterprise_id: str
    device_id: str
    enrolled_at: int  # seconds since the epoch
    addresses: tuple[str, ...] = ()  # what the url's host resolved to then: never blocked, see ble/guard.py

    @property
    def endpoint(self) -> Endpoint:
        return endpoint(self.url, self.fingerprint)


def load_enterprise(state: Path) -> Enterprise | None:
    """Return to whom this device belongs, None before enrolment; EnrollRefused when that is damaged."""
    path = enterprise_path(state)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Enterprise)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise EnrollRefused(f"{str(path)!r} is damaged: {error}; enroll again with --force") from None


def enterprise_path(state: Path) -> Path:
    return state / "identity" / "enterprise.json"
