# SPDX-License-Identifier: Apache-2.0
"""YARA and Sigma rules: their text is carried as it is, with one way to end a line.

Whether a rule compiles is checked where it is written, at the enterprise: mamplus_enterprise/ble/rules.py.
"""

from mamplus_host.errors import ConfigInvalid

MAX_RULE_BYTES = 60_000


def canonical_yara(text: str) -> str:
    """Return the text of YARA rules; ConfigInvalid when there is none."""
    return _rule(text, "YARA rule", "rule")


def canonical_sigma(text: str) -> str:
    """Return the text of a Sigma rule; ConfigInvalid when there is none."""
    return _rule(text, "Sigma rule", "detection:")


def _rule(text: str, what: str, word: str) -> str:
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").strip()
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ConfigInvalid(f"the {what} {text[:40]!r} is no UTF-8; write it in UTF-8") from None
    if "\0" in text or word not in text:
        raise ConfigInvalid(f"{text[:60]!r} is no {what}; want its text, or @FILE")
    if size > MAX_RULE_BYTES:
        raise ConfigInvalid(f"the {what} {text[:40]!r} has {size} bytes, want at most {MAX_RULE_BYTES}: split it")
    return text
