# SPDX-License-Identifier: Apache-2.0
"""Values of the kinds that are texts, for tests that want any of them."""

from hypothesis import strategies as st

from mamplus_host.ble.entry import Kind, canonical
from mamplus_host.ble.versions import version_order
from mamplus_host.errors import ConfigInvalid

_COMPONENT = st.text(st.sampled_from("abcXYZ.-_ é\u202e\n\\*?[\udcff"), min_size=1, max_size=6)
_WILD = st.sampled_from(["*", "**", "?", "[a-c]", "[!x]", "[a\\-é]", "a*", "*.so", "x?y"])
_EXACT = _COMPONENT.map(lambda text: "".join(f"\\{c}" if c in "\\*?[" else c for c in text))
PATHS = st.lists(st.one_of(_EXACT, _WILD), min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
VERSION_TEXTS = st.from_regex(r"\A([1-9]:)?[0-9][0-9a-z.+~]{0,6}(-[0-9a-z.+~]{1,4})?\Z")
_NAMES = st.from_regex(r"\A(deb:[a-z][a-z0-9+.-]{1,6}|rpm:[A-Za-z][A-Za-z0-9_+.-]{0,6})\Z")


def _range(name: str, operator: str, one: str, two: str) -> str:
    if operator != "><":
        return f"{name}{operator}{one}" if operator else name
    scheme = name[:3]
    low, high = (one, two) if version_order(scheme, one, two) < 0 else (two, one)
    return f"{name}>={low},<={high}"


PACKAGES = st.builds(
    _range, _NAMES, st.sampled_from(["", "=", "<", "<=", ">", ">=", "><"]), VERSION_TEXTS, VERSION_TEXTS
)
_USB = st.from_regex(r"\A[0-9a-f]{4}:([0-9a-f]{4}|\*)(:[ -~]{0,8}[!-~])?\Z")


def is_value(pair: tuple[Kind, str]) -> bool:
    try:
        return bool(canonical(*pair))
    except ConfigInvalid:
        return False


TEXT_VALUES = st.one_of(
    st.tuples(st.just(Kind.PATH), PATHS),
    st.tuples(st.just(Kind.PACKAGE), PACKAGES),
    st.tuples(st.just(Kind.USER), st.from_regex(r"\A([A-Za-z_][A-Za-z0-9_.-]{0,8}|uid:[0-9]{1,5})\Z")),
    st.tuples(st.just(Kind.GROUP), st.from_regex(r"\A([A-Za-z_][A-Za-z0-9_.-]{0,8}|gid:[0-9]{1,5})\Z")),
    st.tuples(st.just(Kind.USB), _USB),
    st.tuples(st.just(Kind.YARA), st.text("ab\r\n é", max_size=9).map(lambda body: f"rule r {{ {body} }}")),
    st.tuples(st.just(Kind.SIGMA), st.text("ab\r\n é", max_size=9).map(lambda body: f"detection:\n  {body}")),
).filter(is_value)
