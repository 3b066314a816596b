# SPDX-License-Identifier: Apache-2.0
"""The signed policy: what an enterprise decides for its devices beside the list. docs/policy.md.

Journey: enterprise -> trust -> `state/ble/policy.json` -> [policy] -> service.

Both sides read it with `parse`, so what an administrator may set is what a device takes. A
device without a policy has `Policy()`. Ranges are chosen so that no policy can cut a device
off: the dead-man timer cannot be turned off, and the enterprise's own way comes before
whatever `never_block` adds.
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from mamplus_host.ble.entry import Kind, canonical, unmapped
from mamplus_host.errors import ConfigInvalid
from mamplus_host.files import write_whole
from mamplus_host.policy import actions as actionrules
from mamplus_host.policy import files as filerules
from mamplus_host.policy import isolation as isolationrules
from mamplus_host.policy.actions import ActionRules
from mamplus_host.policy.files import FileRules
from mamplus_host.policy.isolation import Isolation
from mamplus_host.policy.standing import Standing

MAX_BYTES = 64 << 10
MAX_ADDRESSES = 48  # of the 64 that the kernel guards: the others are the enterprise's own
MAX_NAMES = 48
MIN_TABLE_BYTES = 1 << 20  # a hundred thousand entries
EVERY_PORT = 0

Effect = Literal["report", "suspect-as-block", "refuse-unknown"]
Address = IPv4Address | IPv6Address
Guard = tuple[Address, int]  # port 0: every port
_DAY_S = 86_400
MAX_INTERPRETERS = 60  # of the 64 that the kernel has room for
MAX_PATTERN_BYTES = 127
# By their file's name, or by their path where there is a slash in it; as fnmatch(3) has it.
INTERPRETERS = (
    "sh", "bash", "dash", "zsh", "ksh*", "mksh*", "fish", "busybox*", "python*", "perl*", "ruby*", "node", "nodejs",
    "lua*", "php*", "awk", "mawk", "gawk*", "nawk", "original-awk", "tclsh*", "ld-linux*", "ld-musl*", "ld-*.so",
    "qemu-*-static",
)  # fmt: skip
_SEEN_BYTES = 80  # that a refusal shows of a value
_PLACE = re.compile(r"at `\$([^`]*)`")  # as msgspec names it: $.age.stale[0]
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_Age = Annotated[
    int, msgspec.Meta(ge=3600, le=3650 * _DAY_S)
]  # under an hour, a slow network would look like an attack


class AgeLadder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From which age on a list is stale, old, very old, and what that changes. It enforces in all of them.

    The age is the time since the enterprise last proved, by its signature, that this is its newest list.
    """

    stale_s: _Age = 3 * _DAY_S
    old_s: _Age = 14 * _DAY_S
    very_old_s: _Age = 60 * _DAY_S
    stale: tuple[Effect, ...] = ("report",)
    old: tuple[Effect, ...] = ("report",)
    very_old: tuple[Effect, ...] = ("report",)


class NeverBlock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What no list may refuse, beside the way to the enterprise."""

    addresses: tuple[str, ...] = ()  # 192.0.2.1, 192.0.2.1:443, 2001:db8::1, [2001:db8::1]:443
    names: tuple[str, ...] = ()  # DNS names: each alone, without its sub-domains

    def guards(self) -> tuple[Guard, ...]:
        """Return `addresses` as (address, port), port 0 for every port; ConfigInvalid names the first that is none."""
        return tuple(_guard(text) for text in self.addresses)

    def dns_names(self) -> tuple[str, ...]:
        """Return `names` in their canonical spelling; ConfigInvalid names the first that is none."""
        for name in self.names:
            if name.startswith("="):
                raise ConfigInvalid(f"never_block.names: {name!r}; want the name itself: it always stands alone here")
        return tuple(canonical(Kind.DOMAIN, name) for name in self.names)


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version of the policy."""

    version: Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)] = 0  # grows with each; 0: none was ever received
    age: AgeLadder = AgeLadder()
    never_block: NeverBlock = NeverBlock()
    files: FileRules = FileRules()
    standing: Standing = Standing()
    isolation: Isolation = Isolation()
    actions: ActionRules = ActionRules()
    interpreters: tuple[str, ...] = INTERPRETERS  # programs that run what they read: see `kernel/interpreters.py`
    shadow_limit: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 5  # programs in use, newly blocked or cut off
    dead_man_s: Annotated[int, msgspec.Meta(ge=30, le=3600)] = 120  # without the enterprise after a swap
    clock_ahead_s: Annotated[int, msgspec.Meta(ge=3600, le=90 * _DAY_S)] = 7 * _DAY_S  # that a clock is believed
    table_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)] = 0  # of kernel memory for the tables; 0: no bound
    forced_generation: Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)] = (
        0  # taken although the shadow load held it
    )


def parse(data: bytes) -> Policy:
    """Return the policy in `data` (JSON, UTF-8); ConfigInvalid says what was seen and what was wanted."""
    if len(data) > MAX_BYTES:
        raise ConfigInvalid(f"the policy has {len(data)} bytes, want at most {MAX_BYTES}: shorten it")
    try:
        policy = msgspec.json.decode(data, type=Policy)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigInvalid(f"the policy is not as docs/policy.md has it: {error}{_seen(data, str(error))}") from None
    check(policy)
    return policy


def _seen(data: bytes, complaint: str) -> str:
    """Return what stands where the decoder complains of, as the end of its sentence; "" when it names no place."""
    place = _PLACE.search(complaint)
    if place is None or complaint.startswith("Object"):  # these name the field themselves
        return ""
    try:
        found = msgspec.json.decode(data)
        for field, index in _STEP.findall(place[1]):
            found = found[field] if field else found[int(index)]
    except (msgspec.MsgspecError, LookupError, TypeError):
        return ""
    return f"; seen {msgspec.json.encode(found)[:_SEEN_BYTES].decode(errors='replace')}"


def check(policy: Policy) -> None:
    """Raise ConfigInvalid when the fields of `policy` do not fit each other, or name what cannot be guarded."""
    age, never = policy.age, policy.never_block
    if 0 < policy.table_bytes < MIN_TABLE_BYTES:
        raise ConfigInvalid(
            f"the policy's table_bytes is {policy.table_bytes}, want 0 (no bound) or at least {MIN_TABLE_BYTES}:"
            " less would be a way to stop enforcement"
        )
    if not age.stale_s < age.old_s < age.very_old_s:
        raise ConfigInvalid(
            f"the policy's ages are stale_s {age.stale_s}, old_s {age.old_s}, very_old_s {age.very_old_s};"
            " want each greater than the one before"
        )
    for name, count, most in (
        ("addresses", len(never.addresses), MAX_ADDRESSES),
        ("names", len(never.names), MAX_NAMES),
    ):
        if count > most:
            raise ConfigInvalid(f"never_block.{name} has {count} of them, want at most {most}: shorten the policy")
    never.guards()
    never.dns_names()
    _check_interpreters(policy.interpreters)
    filerules.check(policy.files)
    isolationrules.check(policy.isolation)
    actionrules.check(policy.actions)


def _check_interpreters(patterns: tuple[str, ...]) -> None:
    if len(patterns) > MAX_INTERPRETERS:
        raise ConfigInvalid(f"interpreters has {len(patterns)} of them, want at most {MAX_INTERPRETERS}")
    for pattern in patterns:
        size = len(pattern.encode(errors="surrogateescape"))
        if not 0 < size <= MAX_PATTERN_BYTES or "\0" in pattern or ("/" in pattern and not pattern.startswith("/")):
            raise ConfigInvalid(
                f"interpreters: {pattern!r}; want the name of a program's file, like python3*, or its whole path,"
                f" of at most {MAX_PATTERN_BYTES} bytes"
            )


def encode(policy: Policy) -> bytes:
    """Return the one spelling of `policy` that is signed, every field written out."""
    return msgspec.json.format(msgspec.json.encode(policy), indent=2) + b"\n"


def path_of(state: Path) -> Path:
    return state / "ble" / "policy.json"


def keep(state: Path, data: bytes) -> Policy:
    """Make verified `data` this device's policy and return it; ConfigInvalid and nothing changed when it is none."""
    policy = parse(data)
    write_whole(path_of(state), data)
    return policy


def load(state: Path) -> tuple[Policy, str]:
    """Return this device's policy and what is wrong with its file, "" when nothing is; then the defaults hold."""
    try:
        return parse(path_of(state).read_bytes()), ""
    except FileNotFoundError:
        return Policy(), ""
    except (OSError, ConfigInvalid) as error:
        return Policy(), f"the kept policy cannot be used ({error}); the defaults hold until the next one arrives"


def view(policy: Policy) -> dict[str, Any]:
    """Return `policy` as plain values, for `status`."""
    plain: dict[str, Any] = msgspec.to_builtins(policy)
    return plain


def _guard(text: str) -> Guard:
    where, port = text.strip(), EVERY_PORT
    if where.startswith("["):
        where, _, rest = where[1:].partition("]")
        port = _port(rest.removeprefix(":"), text) if rest else EVERY_PORT
    elif where.count(":") == 1:
        where, _, rest = where.partition(":")
        port = _port(rest, text)
    try:
        address = ip_address(where)
    except ValueError:
        raise _no_address(text) from None
    if "%" in where or address.is_unspecified or address.is_multicast:
        raise _no_address(text)
    return unmapped(address), port


def _port(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise _no_address(whole)
    return int(text)


def _no_address(text: str) -> ConfigInvalid:
    return ConfigInvalid(
        f"never_block.addresses: {text!r}; want one like 192.0.2.1, 192.0.2.1:443 or [2001:db8::1]:443"
    )
