# SPDX-License-Identifier: Apache-2.0
"""AdBlock domain lists: `||bad.example^` blocks a name with its sub-domains, `@@||good.example^` is an exception.

Rules about paths, elements or parts of pages are no DNS names and are dropped.
"""

from mamplus_enterprise.ble.feeds.found import NOTHING, Context, Dropped, Found, Values
from mamplus_host.ble.entry import Kind

_HARMLESS = frozenset({"important", "all", "document", "third-party", "3p", "popup"})  # still the whole name


def line(text: str, context: Context) -> Values:  # noqa: ARG001
    if text.startswith(("!", "#", "[")):
        return NOTHING
    rule = text.partition(" #")[0].strip()
    is_exception = rule.startswith("@@")
    rule, _, options = rule.removeprefix("@@").partition("$")
    if not rule.startswith("||") or not rule.rstrip("|").endswith("^"):
        raise Dropped("unsupported", "only rules of the form ||name^ are about a whole name")
    unknown = {option for option in options.split(",") if option} - _HARMLESS
    if unknown:
        raise Dropped("unsupported", f"the option {sorted(unknown)[0]!r} limits the rule to some requests")
    name = rule[2:].rstrip("|").removesuffix("^").removeprefix("*.")
    if "*" in name or "/" in name:
        raise Dropped("unsupported", "the rule is a pattern, not a name")
    return (Found(name, Kind.DOMAIN, is_exception=is_exception),)
