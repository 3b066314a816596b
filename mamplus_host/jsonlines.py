# SPDX-License-Identifier: Apache-2.0
"""One line of JSON out of any of our values, also when a name in it is no Unicode."""

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import msgspec


def encode_line(message: Any) -> bytes:
    """Return `message` as one line of JSON; what JSON cannot say (surrogates) is shown escaped."""
    try:
        return msgspec.json.encode(message, enc_hook=_text) + b"\n"
    except UnicodeEncodeError:
        return msgspec.json.encode(_printable(to_builtins(message))) + b"\n"


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    return value


def to_builtins(value: Any) -> Any:
    """Return `value` as dictionaries, lists, texts and numbers; addresses as text."""
    return msgspec.to_builtins(value, enc_hook=_text)


def _text(value: Any) -> str:
    if isinstance(value, IPv4Address | IPv6Address):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} has no JSON form here")
