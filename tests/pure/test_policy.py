# SPDX-License-Identifier: Apache-2.0
"""The signed policy: what is taken, what is refused, and that no policy cuts a device off."""

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mamplus_host.errors import ConfigInvalid
from mamplus_host.policy import policy
from mamplus_host.policy.policy import NeverBlock, Policy, parse


def data(**fields: Any) -> bytes:
    return json.dumps({"version": 1, **fields}).encode()


def test_an_empty_policy_is_the_defaults() -> None:
    assert parse(b"{}") == Policy()


def test_the_defaults_are_a_policy() -> None:
    policy.check(Policy())

    assert parse(policy.encode(Policy(version=3))) == Policy(version=3)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"shadow_limt": 3}, "shadow_limt"),
        ({"age": {"stale": ["shout"]}}, "shout"),
        ({"age": {"stael_s": 7200}}, "stael_s"),
        ({"dead_man_s": 0}, "dead_man_s"),
        ({"dead_man_s": 86_400}, "dead_man_s"),
        ({"age": {"stale_s": 60}}, "stale_s"),
        ({"age": {"stale_s": 7200, "old_s": 7200}}, "greater than the one before"),
        ({"never_block": {"addresses": ["10.0.0.0/8"]}}, "10.0.0.0/8"),
        ({"never_block": {"addresses": ["10.0.0.1:0"]}}, "10.0.0.1:0"),
        ({"never_block": {"addresses": ["::"]}}, "::"),
        ({"never_block": {"names": ["*.example"]}}, "\\*.example"),
        ({"never_block": {"names": ["=a.example"]}}, "stands alone"),
        ({"never_block": {"addresses": [f"10.0.0.{n}" for n in range(1, 50)]}}, "49 of them, want at most 48"),
        ({"version": -1}, "version"),
        ({"table_bytes": "many"}, "table_bytes"),
        ({"table_bytes": 1}, "a way to stop enforcement"),
    ],
)
def test_what_a_device_could_not_follow_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigInvalid, match=named):
        parse(data(**fields))


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        ({"shadow_limit": -9}, "`$.shadow_limit`; seen -9"),
        ({"age": {"stale": ["report", "shout"]}}, '`$.age.stale[1]`; seen "shout"'),
        ({"table_bytes": "many"}, '`$.table_bytes`; seen "many"'),
    ],
)
def test_a_refusal_shows_what_was_seen(fields: dict[str, Any], seen: str) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        parse(data(**fields))

    assert str(refused.value).endswith(seen)


@given(st.binary(max_size=200))
def test_garbage_is_one_clear_error(garbage: bytes) -> None:
    try:
        parse(garbage)
    except ConfigInvalid as error:
        assert "docs/policy.md" in str(error)  # noqa: PT017  # most garbage is refused, `{}` is not


def test_a_policy_too_long_is_not_even_read() -> None:
    with pytest.raises(ConfigInvalid, match="bytes, want at most"):
        parse(b" " * (policy.MAX_BYTES + 1))


def test_addresses_are_guarded_with_their_port() -> None:
    never = NeverBlock(addresses=("192.0.2.1", "192.0.2.2:443", "[2001:db8::1]:53", "::ffff:192.0.2.3"))

    assert never.guards() == (
        (ip_address("192.0.2.1"), 0),
        (ip_address("192.0.2.2"), 443),
        (ip_address("2001:db8::1"), 53),
        (ip_address("192.0.2.3"), 0),
    )


def test_a_damaged_policy_leaves_the_defaults_and_says_so(tmp_path: Path) -> None:
    policy.path_of(tmp_path).parent.mkdir()
    policy.path_of(tmp_path).write_bytes(b"{")

    kept, note = policy.load(tmp_path)

    assert kept == Policy()
    assert "defaults hold" in note


def test_a_bad_policy_does_not_replace_a_good_one(tmp_path: Path) -> None:
    policy.path_of(tmp_path).parent.mkdir()
    policy.keep(tmp_path, data(shadow_limit=9))

    with pytest.raises(ConfigInvalid):
        policy.keep(tmp_path, data(shadow_limit=-9))

    assert policy.load(tmp_path)[0].shadow_limit == 9
