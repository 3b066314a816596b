# SPDX-License-Identifier: Apache-2.0
"""Paths and patterns: one spelling each, and the tree in C covers what the pattern says."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mamplus_host.ble.encode import encode
from mamplus_host.ble.entry import Entry, Kind, canonical
from mamplus_host.ble.format import Generation
from mamplus_host.ble.globs import Globs
from mamplus_host.ble.paths import bytes_of, is_pattern, seen_bytes, specificity, spelled_path
from mamplus_host.errors import ConfigInvalid
from mamplus_host.verdicts import Verdict
from tests.pure.kinds import PATHS, is_value

PATTERNS = PATHS.filter(lambda text: is_value((Kind.PATH, text))).map(lambda text: canonical(Kind.PATH, text))
SEEN = st.lists(
    st.text(st.sampled_from("abcxyzXY.-_ é\n*[\udcff"), min_size=1, max_size=5), min_size=1, max_size=5
).map(lambda parts: "/" + "/".join(parts))


def globs(*patterns: str) -> Globs:
    entries = [Entry(id=n, kind=Kind.PATH, value=text, verdict=Verdict.BLOCK) for n, text in enumerate(patterns, 1)]
    return Globs([Generation(encode(entries, generation=1, created_s=0))])


def as_regex(pattern: str) -> "re.Pattern[str]":
    """The same pattern as Python's own engine reads it: what the tree is held against."""
    text, found, at = pattern, "", 0
    while at < len(text):
        if text[at] == "\\":
            end = at + (4 if text[at + 1] == "x" else 2)
            raw = bytearray()
            while text[at : at + 2] == "\\x":
                raw.append(int(text[at + 2 : at + 4], 16))
                at += 4
            found += re.escape(raw.decode("utf-8", "surrogateescape")) if raw else re.escape(text[at + 1])
            at = at if raw else end
        elif text.startswith("/**/", at):
            found, at = found + "/(?:.*/)?", at + 4
        elif text.startswith("**", at):
            found, at = found + ".*", at + 2
        elif text[at] in "*?":
            found, at = found + ("[^/]*" if text[at] == "*" else "[^/]"), at + 1
        elif text[at] == "[":
            end = re.compile(r"(?:\\.|[^\]\\])+").match(text, at + 1).end()  # type: ignore[union-attr]
            inside = text[at + 1 : end]
            inverted = inside.startswith("!")
            found += f"(?!/)[{'^' * inverted}{inside[inverted:].replace('^', chr(92) + '^')}]"
            at = end + 1
        else:
            found, at = found + re.escape(text[at]), at + 1
    return re.compile(found, re.DOTALL)


@given(PATTERNS)
def test_the_spelling_is_its_own(pattern: str) -> None:
    assert canonical(Kind.PATH, f" {pattern}\n") == pattern


@given(st.text(st.sampled_from("/.*?[]!^-\\x0aéb \udc80"), max_size=20).map(lambda text: f"/{text}"))
def test_any_text_has_one_spelling_or_none(text: str) -> None:
    try:
        once = canonical(Kind.PATH, text)
    except ConfigInvalid:
        return
    assert canonical(Kind.PATH, once) == once
    entry = Entry(id=1, kind=Kind.PATH, value=once, verdict=Verdict.BLOCK)
    Generation(encode([entry], generation=1, created_s=0)).check()


@given(SEEN)
def test_a_seen_path_is_spelled_as_an_entry_about_it_would_be(seen: str) -> None:
    if "/./" in f"{seen}/" or "/../" in f"{seen}/":
        return
    value = spelled_path(seen)

    assert canonical(Kind.PATH, value) == value
    assert bytes_of(value) == seen_bytes(seen)
    assert not is_pattern(value)


@settings(max_examples=400, deadline=None)
@given(st.lists(PATTERNS, min_size=1, max_size=6), SEEN)
@example(["/a/**/b"], "/a/b")
@example(["/a/**/b"], "/a/x/y/b")
@example(["/a/**b", "/a/**/b"], "/a/xb")
@example(["/a/*"], "/a/b/c")
def test_the_tree_covers_what_pythons_own_engine_covers(patterns: list[str], seen: str) -> None:
    wanted = {text for text in patterns if is_pattern(text) and as_regex(text).fullmatch(seen)}

    assert set(globs(*patterns).covering(seen.encode("utf-8", "surrogateescape"))) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/usr//local/./bin/../sbin/x/", "/usr/local/sbin/x"),
        ("/bin/sh", "/usr/bin/sh"),
        ("/lib64/ld.so", "/usr/lib64/ld.so"),
        ("/home/*/.cache/***", "/home/*/.cache/**"),
        ("/a/**/***/b/**/**", "/a/**/b/**"),
        ("/tmp/[cab]*", "/tmp/[a-c]*"),
        ("/tmp/[^x]y", "/tmp/[!x]y"),
        ("/tmp/[a]", "/tmp/a"),
        ("/tmp/\\*", "/tmp/\\*"),
        ("/tmp/a\tb", "/tmp/a\\x09b"),
        ("/tmp/b\udcfcr", "/tmp/b\\xfcr"),
        ("/tmp/b\\xc3\\xbcr", "/tmp/bür"),
        ("/tmp/\u202egpj.exe", "/tmp/\\xe2\\x80\\xaegpj.exe"),
        ("/tmp/a\\x20", "/tmp/a\\x20"),
    ],
)
def test_many_spellings_become_one(text: str, wanted: str) -> None:
    assert canonical(Kind.PATH, text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "", "bin/sh", "/", "/**", "/*/?", "/a/*/../b", "/a/[", "/a/[]", "/a/[!]", "/a\\", "/a/[z-a]", "/a\\x00",
        "/" + "a" * 4096,
    ],
)  # fmt: skip
def test_what_is_no_path_is_refused_with_what_was_wanted(text: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"want|write"):
        canonical(Kind.PATH, text)


def test_the_exact_path_says_more_than_any_pattern_and_the_longer_pattern_more_than_the_shorter() -> None:
    ordered = ["/opt/tool/run", "/opt/tool/ru?", "/opt/tool/*", "/opt/tool/**", "/opt/**"]

    assert sorted(ordered, key=specificity, reverse=True) == ordered


def test_however_many_patterns_cover_a_path_all_are_found() -> None:
    patterns = {f"/{'?' * n}{'[a-z]' * (m - n)}{'*' * (m % 2)}/x" for m in range(1, 80) for n in range(m)}
    asked = globs("/*/x", *sorted(patterns))
    path = b"/" + b"a" * 79 + b"/x"

    found = asked.covering(path)

    assert len(found) > 1024
    assert canonical(Kind.PATH, "/*/x") in found


def test_a_tree_of_many_patterns_finds_the_one() -> None:
    many = globs(*(f"/home/*/.cache/evil-{n}*" for n in range(5000)))

    assert many.count == 5000
    assert (
        many.covering(b"/home/eve/.cache/evil-4999.bin")
        == [canonical(Kind.PATH, f"/home/*/.cache/evil-{n}*") for n in (4, 49, 499, 4999)]
        or len(many.covering(b"/home/eve/.cache/evil-4999.bin")) == 4
    )
    assert many.covering(b"/home/eve/.cache/good") == []
