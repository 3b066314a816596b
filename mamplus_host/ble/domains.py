# SPDX-License-Identifier: Apache-2.0
"""The one spelling of a domain name: lower-case A-labels, as a resolver asks for it.

Letters beyond ASCII are mapped as UTS 46 says (without transitional processing): full-width dots and
letters, capitals, compatibility forms. An A-label is believed when it decodes to what it was made of.
Scripts may be mixed and emoji may stand in a name: phishers register such names, so a list must hold them.
Underscores stand in names that nobody registers and everybody asks for, `_dmarc.example`.
"""

import re
import unicodedata

from mamplus_host.errors import ConfigInvalid

MAX_NAME_CHARS = 253
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_PREFIX = "xn--"


def canonical_domain(text: str) -> str:
    """Return the spelling of `text`, with its `=` when it has one; ConfigInvalid when it is no DNS name."""
    exact, name = ("=", text[1:]) if text.startswith("=") else ("", text)
    name = _mapped(name, text)
    labels = [_label(label, text) for label in name.removesuffix(".").split(".")]
    name = ".".join(labels)
    is_name = len(name) <= MAX_NAME_CHARS and len(labels) >= 2 and all(_LABEL.fullmatch(label) for label in labels)
    if not is_name or labels[-1].isdigit():  # 10.0.0.1 is an address: nobody asks for it by DNS
        raise ConfigInvalid(f"{text!r} is no DNS name; want one like bad.example, or =bad.example without sub-domains")
    return exact + name


def _mapped(name: str, text: str) -> str:
    if name.isascii():
        return name.lower()
    import idna  # 2 MB that the agent never needs: what it looks up is ASCII

    try:
        return idna.uts46_remap(name, std3_rules=False, transitional=False)
    except (idna.IDNAError, UnicodeError) as error:
        raise ConfigInvalid(f"{text!r} cannot stand in a DNS name ({error}); want one like bücher.example") from None


def _label(label: str, text: str) -> str:
    if label.isascii():
        return _a_label(label, text) if label.startswith(_PREFIX) else label
    if unicodedata.category(label[0]).startswith("M"):
        raise ConfigInvalid(f"{text!r} has a label that begins with a combining mark; want one like bücher.example")
    return _PREFIX + label.encode("punycode").decode("ascii")


def _a_label(label: str, text: str) -> str:
    """Return `label` when it is the A-label of something; ConfigInvalid when it decodes to nothing that has one."""
    try:
        decoded = label.removeprefix(_PREFIX).encode("ascii").decode("punycode")
        if not decoded.isascii() and _label(_mapped(decoded, text), text) == label:
            return label
    except (UnicodeError, OverflowError, ConfigInvalid):
        pass  # refused below, in words that name the label
    raise ConfigInvalid(f"{text!r}: {label!r} decodes to no name; want an A-label as a registry writes it, or letters")
