# SPDX-License-Identifier: Apache-2.0
"""Times as people read and write them. Some come from devices, whose clocks may say anything."""

from datetime import UTC, datetime


def clock(seconds: float | None) -> str:
    """Return `seconds` since the epoch as a UTC time; "never" for none, the number where no calendar has it."""
    if not seconds:
        return "never"
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s after 1970"


def seconds(text: str) -> int:
    """Return the end of the day `text`, or its very time (UTC when it names no zone), in seconds since the epoch.

    ValueError when it is neither.
    """
    text = text.strip()
    moment = datetime.fromisoformat(text)
    day_s = 86_400 if len(text) <= len("2031-12-31") else 0
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) + day_s
