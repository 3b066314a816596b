# SPDX-License-Identifier: Apache-2.0
"""From a line of a feed to rows that may be stored, or to the reason why not. Pure; run by several processes.

Journey: reading -> parser -> [judge] -> staging. The clock's time comes in with the wish.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mamplus_enterprise.ble.author import Draft, check_text
from mamplus_enterprise.ble.feeds.formats import Format
from mamplus_enterprise.ble.feeds.found import Context, Dropped, Found
from mamplus_enterprise.ble.feeds.values import canonical_values
from mamplus_enterprise.ble.gate import Gate
from mamplus_enterprise.ble.reading import MAX_LINE_CHARS, Line
from mamplus_enterprise.ble.rules import check_rule
from mamplus_host.ble.endpoint import split
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import MAX_END
from mamplus_host.ble.guard import is_system
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.limits import FEED_DAYS, LIMITS
from mamplus_host.errors import ConfigInvalid
from mamplus_host.verdicts import Severity, Verdict

FEED_KINDS = frozenset({Kind.SHA256, Kind.IP, Kind.CIDR, Kind.DOMAIN})  # all that the key of ble-feeds may sign
FEED_LIFE_S = FEED_DAYS * 86_400  # the longest; devices refuse more
_SLACK_S = 60  # an end that was said as so many days, a moment ago
_MAX_REASON_CHARS = 1000
_NO_UTF8 = "\ufffd"  # what reading makes of it: a path that holds it would match no file
# line, kind, value, verdict, severity, confidence, valid_until, whether the feed or a person said that end,
# reason, message, link, whether it is an exception
Row = tuple[int, int, str, int, int, int, int, bool, str, str, str, bool]
Drop = tuple[int, str, str, str]  # line, its text, code, reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What an administrator asks of an import."""

    kind: Kind | None = None
    verdict: Verdict = Verdict.BLOCK
    severity: Severity = Severity.HIGH
    layer: Layer = Layer.FEEDS
    confidence: int = 100
    valid_until: int = 0  # of all values, when it was said
    ttl_s: int = 0  # of values that say no end; 0: none
    now_s: int
    urls: str = "domain"  # domain: their hosts, but not shared ones; host: all; drop: none
    exceptions: bool = False  # AdBlock's exceptions become entries that allow
    forced: frozenset[str] = frozenset()  # values that pass the gate
    min_score: int = 0


@dataclass(slots=True)
class Judged:
    """What became of some lines."""

    lines: int = 0
    comments: int = 0
    rows: list[Row] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    forced: list[tuple[str, str]] = field(default_factory=list)  # value, what the gate said


class Judge:
    """One import's rules."""

    def __init__(self, wish: Wish, format_: Format, context: Context, gate: Gate) -> None:
        self._wish, self._format, self._context, self._gate = wish, format_, context, gate

    def lines(self, lines: Iterable[Line]) -> Judged:
        """Judge lines of a format that is read line by line."""
        judged, parse = Judged(), self._format.line
        assert parse is not None
        for number, text, whole in lines:
            judged.lines += 1
            try:
                if not whole:
                    raise Dropped("malformed", f"the line is longer than {MAX_LINE_CHARS} characters")
                found = parse(text, self._context) if text else ()
            except ConfigInvalid as error:
                _drop(judged, number, text, error)
                continue
            if not found:
                judged.comments += 1
            self._all(judged, number, text, found)
        return judged

    def document(self, data: bytes) -> Judged:
        """Judge a document, each of its parts as a line."""
        judged, parse = Judged(), self._format.document
        assert parse is not None
        for number, text, found in parse(data):
            judged.lines += 1
            judged.comments += found is None
            self._all(judged, number, text, found or ())
        return judged

    def _all(self, judged: Judged, number: int, text: str, found: Sequence[Found | Dropped]) -> None:
        for one in found:
            try:
                if isinstance(one, Dropped):
                    raise one
                self._take(judged, number, one)
            except ConfigInvalid as error:
                _drop(judged, number, text, error)

    def _take(self, judged: Judged, number: int, one: Found) -> None:
        if _NO_UTF8 in one.text:
            raise Dropped("malformed", "the value is not in UTF-8; convert the file, as by iconv -t UTF-8")
        if one.is_exception and self._wish.exceptions:
            one = one._replace(is_exception=False, verdict=Verdict.ALLOW)
        verdict = Verdict.ALLOW if one.is_exception else one.verdict or self._wish.verdict
        end, is_said = self._end(one)
        reason, message, link = one.reason[:_MAX_REASON_CHARS], one.message, one.link
        for name, content in (("reason", reason), ("message", message), ("link", link)):
            if len(content) > _MAX_REASON_CHARS or not content.isascii():
                check_text(name, content)
        confidence = self._wish.confidence if one.confidence < 0 else one.confidence
        severity = one.severity or self._wish.severity
        for kind, value, is_host in canonical_values(one.text, one.kind or self._wish.kind):
            self._check_layer(kind, value, verdict, one.is_exception)
            if kind not in FEED_KINDS:
                _check_meaning(kind, value, verdict)
            if verdict is not Verdict.ALLOW:
                self._pass(judged, kind, value, is_host)
            judged.rows.append((
                number, int(kind), value, int(verdict), int(severity), confidence, end, is_said, reason, message,
                link, one.is_exception,
            ))  # fmt: skip

    def _end(self, one: Found) -> tuple[int, bool]:
        """Return (valid until, whether feed or administrator said so)."""
        wish = self._wish
        end, is_said = one.valid_until or wish.valid_until, True
        if not end:
            end, is_said = (wish.now_s + wish.ttl_s if wish.ttl_s else 0), False
        if end and end <= wish.now_s:
            raise Dropped("expired", "its validity has ended")
        if wish.layer is Layer.FEEDS and not 0 < end <= wish.now_s + FEED_LIFE_S:
            return wish.now_s + FEED_LIFE_S, False
        return (end, is_said) if end <= MAX_END else (0, is_said)  # "9999-12-31" means no end

    def _check_layer(self, kind: Kind, value: str, verdict: Verdict, is_exception: bool) -> None:
        if is_exception or self._wish.layer is Layer.ENTERPRISE:
            return
        if verdict is Verdict.ALLOW:
            raise Dropped("layer", f"layer {self._wish.layer.name.lower()} allows nothing; say --layer enterprise")
        if self._wish.layer is Layer.FEEDS and kind not in FEED_KINDS:
            raise Dropped("layer", f"layer feeds holds no {kind.name.lower()}; say --layer enterprise")
        if self._wish.layer is Layer.FEEDS and kind is Kind.CIDR and _is_too_wide_for_feeds(value):
            raise Dropped("wide", f"layer feeds holds no network as wide as {value}; say --layer enterprise")

    def _pass(self, judged: Judged, kind: Kind, value: str, is_host: bool) -> None:
        if is_host and self._wish.urls == "drop":
            raise Dropped("url", "a URL; say --urls domain or host to block its host")
        answer = self._gate.ask(kind, value, is_host_of_url=is_host and self._wish.urls == "domain")
        if answer.refusal is not None:
            if value not in self._wish.forced:
                raise Dropped(*answer.refusal)
            judged.forced.append((value, answer.refusal.reason))
        elif answer.note:
            judged.notes[answer.note] += 1


def _check_meaning(kind: Kind, value: str, verdict: Verdict) -> None:
    """What `ble add` refuses, an import drops: rules that do not compile, the users that a device runs by."""
    check_rule(kind, value)
    if verdict is not Verdict.ALLOW and is_system(kind, value):
        raise Dropped(
            "never", f"{kind.name.lower()} {value} cannot be refused: without its programs there is no device"
        )


def beyond_key(entry: Entry | Draft, layer: Layer, now_s: float) -> str:
    """Return why the key of `layer` may not sign for `entry`, "" when it may; devices would refuse the whole list."""
    name = layer.name.lower()
    if layer is not Layer.ENTERPRISE and entry.verdict is Verdict.ALLOW:
        return f"layer {name} blocks and suspects only; say --layer enterprise"
    if layer is not Layer.FEEDS:
        return ""
    if entry.kind not in FEED_KINDS:
        return f"layer {name} holds no {entry.kind.name.lower()}; say --layer enterprise"
    if entry.kind is Kind.CIDR and _is_too_wide_for_feeds(entry.value):
        return f"layer {name} holds no network as wide as {entry.value}; say --layer enterprise"
    if 0 < entry.valid_until <= now_s + FEED_LIFE_S + _SLACK_S:
        return ""
    return f"an entry of layer {name} has an end, at most {FEED_DAYS} days ahead; say --until DATE"


def _is_too_wide_for_feeds(value: str) -> bool:
    where, limits = split(value)[0], LIMITS[Layer.FEEDS]
    return int(where.partition("/")[2]) < (limits.prefix6 if ":" in where else limits.prefix4)


def _drop(judged: Judged, number: int, text: str, error: ConfigInvalid) -> None:
    code = error.code if isinstance(error, Dropped) else "malformed"
    judged.drops.append((number, text[:200], code, str(error)))
