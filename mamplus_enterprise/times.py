# SPDX-License-Identifier: Apache-2.0
"""Times for people. Some come from devices, whose clocks may say anything."""

from datetime import UTC, datetime


def clock(seconds: float | None) -> str:
    """Return `seconds` since the epoch as a UTC time; "never" for none, the number where no calendar has it."""
    if not seconds:
        return "never"
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s after 1970"
