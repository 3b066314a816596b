# SPDX-License-Identifier: Apache-2.0
"""ClamAV hash signatures (.hsb): hash:size:name[:level]. Of the hashes it may use, SHA-256 alone is taken."""

import re

from mamplus_enterprise.ble.feeds.found import NOTHING, Context, Dropped, Found, Values
from mamplus_host.ble.entry import Kind

_HASHES = {32: "MD5", 40: "SHA-1"}
_HEX = re.compile(r"[0-9a-fA-F]+")


def line(text: str, context: Context) -> Values:  # noqa: ARG001
    if text.startswith("#"):
        return NOTHING
    parts = text.split(":")
    if len(parts) < 3 or not _HEX.fullmatch(parts[0]):
        raise Dropped("malformed", "the line is no hash:size:name")
    if name := _HASHES.get(len(parts[0])):
        raise Dropped("hash", f"a {name} hash names no program here: two files can share one; want SHA-256")
    return (Found(parts[0], Kind.SHA256, reason=parts[2].strip()),)
