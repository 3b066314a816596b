# SPDX-License-Identifier: Apache-2.0
"""Users and groups: a name of the account database, or a number.

    eve   svc-backup   CORP\\eve   eve@corp.example   uid:1001   gid:27

Names are compared as they are: Linux tells Eve from eve. A number holds whatever the account is called.
"""

import re

from mamplus_host.errors import ConfigInvalid

MAX_NAME_CHARS = 256  # LOGIN_NAME_MAX
MAX_ID = (1 << 32) - 2  # the last number means "none"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+\\$-]*")


def canonical_user(text: str) -> str:
    """Return the one spelling of a user; ConfigInvalid when it is none."""
    return _account(text, "uid", "eve")


def canonical_group(text: str) -> str:
    """Return the one spelling of a group; ConfigInvalid when it is none."""
    return _account(text, "gid", "wheel")


def _account(text: str, prefix: str, example: str) -> str:
    want = f"want a name like {example} or {prefix}:1001"
    if text[:4].lower() == f"{prefix}:":
        number = text[4:]
        if not (number.isascii() and number.isdigit() and len(number) <= 10 and int(number) <= MAX_ID):
            raise ConfigInvalid(f"{text!r} is no {prefix}; want {prefix}:0 to {prefix}:{MAX_ID}")
        return f"{prefix}:{int(number)}"
    if text.isascii() and text.isdigit():
        raise ConfigInvalid(f"{text!r} is a number; {want}")
    if len(text) > MAX_NAME_CHARS or not _NAME.fullmatch(text):
        raise ConfigInvalid(f"{text!r} is no name of an account; {want}")
    return text
