# SPDX-License-Identifier: Apache-2.0
"""Paths and patterns of paths: how they are spelled, and which pattern says more.

    /usr/bin/nc            this very path, as the kernel names the program: links followed
    /home/*/.cache/??      `*` any characters but `/`, `?` one of them
    /opt/**/miner          `**` any characters; as a whole component also none, so /opt/miner too
    /tmp/[a-f0-9]*         `[...]` one of these, `[!...]` one that is none of these, never `/`

Compared byte by byte. `\\*`, `\\?`, `\\[` and `\\\\` are the characters themselves, `\\xHH` is one byte: so are
spelled what is no UTF-8, and characters that cannot be seen or would turn a line around. /bin, /sbin
and /lib* are spelled below /usr, where they lie since the usr-merge; a path that is seen is spelled so, too.
"""

import re
from typing import NamedTuple

from mamplus_host.errors import ConfigInvalid

MAX_PATH_BYTES = 4096  # PATH_MAX
_WANT = "want an absolute path like /usr/bin/nc or a pattern like /home/*/.cache/**"
_TOKEN = re.compile(
    r"\\x(?P<hex>[0-9a-fA-F]{2})|\\(?P<literal>[^x])|(?P<stars>\*+)|(?P<any>\?)|\[(?P<set>[!^]?(?:\\.|[^\]\\])+)\]"
    r"|(?P<plain>[^\\*?\[])",
    re.DOTALL,
)
_IN_CLASS = re.compile(r"\\x(?P<hex>[0-9a-fA-F]{2})|\\(?P<literal>[^x])|(?P<range>-)|(?P<plain>[^\\])", re.DOTALL)
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
_MERGED = re.compile(r"/(bin|sbin|lib|lib32|lib64|libx32|libo32)/")
_PLAIN = re.compile(r"/(?!(?:bin|sbin|lib|lib32|lib64|libx32|libo32)/)[A-Za-z0-9_/.+@:=,~%-]*")
_NAMED = re.compile(r"[A-Za-z0-9_.+@:=,~%-]")
_SIMPLE = re.compile(  # nearly every path and pattern, and as it is to be spelled: half a million a second
    r"(?!/(?:bin|sbin|lib|lib32|lib64|libx32|libo32)/)"
    r"(?:/(?!\.{1,2}(?:/|\Z))(?!\*\*/\*\*(?:/|\Z))(?:[A-Za-z0-9_.+@:=,~%-]|\?|(?<!\*)\*{1,2}(?!\*))+)+"
)


class Item(NamedTuple):
    """One step of a pattern."""

    kind: str  # "text", "any", "star", "stars", "class"
    text: str  # of "text": characters, undecodable bytes as surrogates; of "class": its canonical inside


_ANY_FOLDERS = [Item("stars", "")]  # a component


def canonical_path(text: str) -> str:
    """Return the one spelling of a path or pattern; ConfigInvalid when it is neither."""
    if _SIMPLE.fullmatch(text) and len(text) <= MAX_PATH_BYTES and _NAMED.search(text):
        return text
    items = _normal(_items(text), text)
    if not any(item.kind == "text" and item.text.strip("/") for item in items):
        raise ConfigInvalid(f"{text!r} names every program, or none; {_WANT}")
    spelled = "".join(_spelled(item) for item in items)
    if spelled.endswith(" "):  # what is typed loses the spaces at its end
        spelled = spelled[:-1] + "\\x20"
    if len(spelled.encode()) > MAX_PATH_BYTES:
        raise ConfigInvalid(f"a path has {len(spelled.encode())} bytes, want at most {MAX_PATH_BYTES}: {text[:40]!r}")
    return spelled


def spelled_path(seen: str) -> str:
    """Return the spelling of a path as the kernel has it: absolute, undecodable bytes as surrogates."""
    if _PLAIN.fullmatch(seen):
        return seen
    spelled = _spelled(Item("text", _merged(seen)))
    return spelled[:-1] + "\\x20" if spelled.endswith(" ") else spelled


def spelled_text(text: str) -> str:
    """Return the spelling of other text that a device or program chose, in the same escapes; ConfigInvalid for none."""
    items = _items(re.sub(r"\\.|[*?\[]", lambda match: match[0] if match[0][0] == "\\" else f"\\{match[0]}", text))
    spelled = _spelled(Item("text", "".join(item.text for item in items)))
    return spelled[:-1] + "\\x20" if spelled.endswith(" ") else spelled


def seen_bytes(seen: str) -> bytes:
    """Return the bytes of a path as the kernel has it, with the usr-merge done."""
    return _merged(seen).encode("utf-8", "surrogateescape")


def bytes_of(value: str) -> bytes:
    """Return the bytes of the path that a canonical `value` without wildcards spells."""
    return "".join(item.text for item in _items(value)).encode("utf-8", "surrogateescape")


def is_pattern(value: str) -> bool:
    """Say whether a canonical path has wildcards."""
    return any(item.kind != "text" for item in _items(value))


def pattern(value: str) -> "re.Pattern[str]":
    """Return the regular expression of a canonical path or pattern; for a few questions, many ask `Globs`."""
    items, parts = _items(value), list[str]()
    for at, item in enumerate(items):
        before = items[at - 1].text if at and items[at - 1].kind == "text" else ""
        after = items[at + 1].text if at + 1 < len(items) and items[at + 1].kind == "text" else ""
        if item.kind == "stars" and before.endswith("/") and (at + 1 == len(items) or after.startswith("/")):
            parts[-1] = parts[-1].removesuffix("/") + "(?:/.*)?"  # a whole component, or none
        else:
            parts.append(_expression(item))
    return re.compile("".join(parts), re.DOTALL)


def _expression(item: Item) -> str:
    if item.kind == "text":
        return re.escape(item.text)
    if item.kind == "class":
        inside = item.text.removeprefix("!").replace("[", "\\[")
        return f"(?!/)[{'^' if item.text.startswith('!') else ''}{inside}]"
    return {"any": "[^/]", "star": "[^/]*", "stars": ".*"}[item.kind]


def specificity(value: str) -> tuple[int, ...]:
    """Return what orders patterns: more characters that are named, then fewer that are not. The greater says more."""
    items = _items(value)
    kinds = [item.kind for item in items]
    named = sum(len(item.text) for item in items if item.kind == "text")
    single = kinds.count("class") + kinds.count("any")
    is_exact = all(kind == "text" for kind in kinds)
    return is_exact, named, single, -kinds.count("stars"), -kinds.count("star")


def _items(text: str) -> list[Item]:
    """Return what `text` says, step by step."""
    items: list[Item] = []
    data, at = bytearray(), 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ConfigInvalid(f"{text!r} cannot be read from {text[at : at + 10]!r} on; write \\\\, \\[ or \\xHH")
        at = match.end()
        kind = match.lastgroup
        if kind in ("hex", "literal", "plain"):
            data += _byte(match)
            continue
        _flush(items, data)
        items.append(_wildcard(match, text))
    _flush(items, data)
    return items


def _byte(match: "re.Match[str]") -> bytes:
    data = bytes.fromhex(match["hex"]) if match["hex"] else _text_of(match).encode("utf-8", "surrogateescape")
    if data == b"\0":
        raise ConfigInvalid(f"{match.string!r} has a zero byte, which no path has; {_WANT}")
    return data


def _text_of(match: "re.Match[str]") -> str:
    return match["literal"] or match["plain"]


def _flush(items: list[Item], data: bytearray) -> None:
    if data:
        items.append(Item("text", data.decode("utf-8", "surrogateescape")))
        data.clear()


def _wildcard(match: "re.Match[str]", text: str) -> Item:
    if match["set"]:
        return _class(match["set"], text)
    if match["any"]:
        return Item("any", "")
    return Item("star" if len(match["stars"]) == 1 else "stars", "")


def _class(inside: str, text: str) -> Item:
    """Return a class with its characters in order, each once; a class of one character is that character."""
    is_inverted = inside[0] in "!^"
    ranges = _ranges(inside[is_inverted:], text)
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    if not is_inverted and len(merged) == 1 and merged[0][0] == merged[0][1]:
        return Item("text", chr(merged[0][0]))
    return Item("class", ("!" if is_inverted else "") + "".join(_range(low, high) for low, high in merged))


def _ranges(inside: str, text: str) -> list[tuple[int, int]]:
    characters = _class_characters(inside)
    ranges, at = list[tuple[int, int]](), 0
    while at < len(characters):
        character = characters[at][0]
        if at + 2 < len(characters) and characters[at + 1] == ("-", True):
            ranges.append((ord(character), ord(characters[at + 2][0])))
            at += 3
        else:
            ranges.append((ord(character), ord(character)))
            at += 1
    is_wrong = any(low > high or low == high == ord("/") for low, high in ranges)
    if not ranges or is_wrong:
        raise ConfigInvalid(f"{text!r} has a class that holds nothing, or a slash; want one like [a-f0-9]")
    return ranges


def _class_characters(inside: str) -> list[tuple[str, bool]]:
    """Return each character, and whether it is a bare `-`."""
    found, data = list[tuple[str, bool]](), bytearray()
    for match in _IN_CLASS.finditer(inside):
        if match["range"]:
            found += [(character, False) for character in data.decode("utf-8", "surrogateescape")]
            data.clear()
            found.append(("-", True))
        else:
            data += _byte(match)
    found += [(character, False) for character in data.decode("utf-8", "surrogateescape")]
    return found


def _range(low: int, high: int) -> str:
    first, last = _in_class(chr(low)), _in_class(chr(high))
    return first if low == high else f"{first}{last}" if high == low + 1 else f"{first}-{last}"


def _in_class(character: str) -> str:
    return f"\\{character}" if character in "\\[]-!^*?" else _escaped(character)


def _escaped(text: str) -> str:
    def as_bytes(match: "re.Match[str]") -> str:
        return "".join(f"\\x{byte:02x}" for byte in match[0].encode("utf-8", "surrogateescape"))

    return _UNSEEN.sub(as_bytes, text)


def _spelled(item: Item) -> str:
    if item.kind == "text":
        return _escaped(re.sub(r"([\\*?\[])", r"\\\1", item.text))
    return {"any": "?", "star": "*", "stars": "**", "class": f"[{item.text}]"}[item.kind]


def _merged(path: str) -> str:
    return f"/usr{path}" if _MERGED.match(path) else path


def _normal(items: list[Item], text: str) -> list[Item]:
    """Join runs of text, and take out `//`, `.`, `..` and a slash at the end; no wildcard is stepped over by `..`."""
    joined = _joined(items)
    if not joined or joined[0].kind != "text" or not joined[0].text.startswith("/"):
        raise ConfigInvalid(f"{text!r} is no path; {_WANT}")
    components: list[list[Item]] = []
    for component in _components(joined):
        is_text = len(component) == 1 and component[0].kind == "text"
        name = component[0].text if is_text else None
        if not component or name == ".":
            continue
        if name != "..":
            if component != _ANY_FOLDERS or components[-1:] != [_ANY_FOLDERS]:  # twice says no more than once
                components.append(component)
        elif components and any(item.kind != "text" for item in components[-1]):
            raise ConfigInvalid(f"{text!r} steps back over a wildcard; write the path that is meant; {_WANT}")
        else:
            components = components[:-1]
    return _with_merge(_joined([item for one in components for item in (Item("text", "/"), *one)]))


def _with_merge(items: list[Item]) -> list[Item]:
    if not items:
        return items
    first = items[0]
    return [Item("text", _merged(first.text)), *items[1:]]


def _joined(items: list[Item]) -> list[Item]:
    joined: list[Item] = []
    for item in items:
        if item.kind == "text" and joined and joined[-1].kind == "text":
            whole = (joined[-1].text + item.text).encode("utf-8", "surrogateescape")
            joined[-1] = Item("text", whole.decode("utf-8", "surrogateescape"))
        elif item.kind == "star" and joined and joined[-1].kind in ("star", "stars"):
            continue
        elif item.kind == "stars" and joined and joined[-1].kind in ("star", "stars"):
            joined[-1] = item
        else:
            joined.append(item)
    return joined


def _components(items: list[Item]) -> list[list[Item]]:
    """Split at the slashes that are text."""
    components: list[list[Item]] = [[]]
    for item in items:
        if item.kind != "text":
            components[-1].append(item)
            continue
        first, *rest = item.text.split("/")
        for number, part in enumerate([first, *rest]):
            if number:
                components.append([])
            if part:
                components[-1].append(Item("text", part))
    return components
