# SPDX-License-Identifier: Apache-2.0
"""One request, answered by one or more lines of JSON, over a unix stream socket.

    -> {"command": "status", "arguments": {...}}\n
    <- {"ok": true, "result": ...}\n            or   {"ok": false, "error": "...", "exit": 1}\n
    <- {"item": ...}\n ...                      more lines, for `events -f` alone

Both sides bound what they read; a request longer than MAX_REQUEST_BYTES is refused.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from mamplus_host.errors import ControlMalformed

MAX_REQUEST_BYTES = 64 << 10
MAX_REPLY_BYTES = 32 << 20
REQUEST_TIMEOUT_S = 2.0  # a client that connects and says nothing is let go after this


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    command: str
    arguments: dict[str, Any] = {}


class Reply(msgspec.Struct, frozen=True):
    ok: bool
    result: Any = None
    error: str = ""
    exit: int = 0


def decode_request(line: bytes) -> Request:
    """Return the request in `line`; ControlMalformed says what is wrong with it."""
    try:
        return msgspec.json.decode(line, type=Request)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ControlMalformed(f'not a request: {error}; want one line of JSON: {{"command": ...}}') from None


@contextmanager
def short_address(path: Path) -> Iterator[str]:
    """Yield a name of the socket at `path` that fits into the 108 bytes of sun_path, however long `path` is."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
