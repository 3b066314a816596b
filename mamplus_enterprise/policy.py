# SPDX-License-Identifier: Apache-2.0
"""The policy of this enterprise's devices: DIR/policy.json, checked as a device checks it.

Journey: administrator -> [policy] -> publish -> devices.

`target` is what publishing signs. Nothing here signs or serves.
"""

from pathlib import Path

import msgspec

from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.store import Store, note
from mamplus_host.errors import ConfigInvalid
from mamplus_host.files import write_whole
from mamplus_host.policy import policy
from mamplus_host.policy.policy import Policy


def read(path: Path) -> Policy:
    """Return the policy in `path`; ConfigInvalid when it cannot be read, or no device would take it."""
    try:
        return policy.parse(path.read_bytes())
    except OSError as error:
        raise ConfigInvalid(
            f"cannot read {str(path)!r}: {error.strerror}; want a policy as docs/policy.md has it"
        ) from None


def current(home: Home) -> Policy:
    """Return the policy that is set; the defaults, of version 0, when none is."""
    return read(home.policy) if home.policy.exists() else Policy()


def set_policy(home: Home, store: Store, wanted: Policy, *, who: str) -> Policy:
    """Make `wanted` the policy, with the next version number, and return it.

    ConfigInvalid when it says a version that is neither the present one nor the next: it was made from another one.
    """
    version = current(home).version
    if wanted.version not in (0, version, version + 1):
        raise ConfigInvalid(
            f"the policy says version {wanted.version}, want {version}, the present one, or none: it was made from"
            " another policy; make it from `policy show`"
        )
    chosen = msgspec.structs.replace(wanted, version=version + 1)
    policy.check(chosen)
    with store.writing() as session:
        note(session, who=who, what="set the policy", subject=f"version {chosen.version}")
        write_whole(home.policy, policy.encode(chosen), mode=0o644)
    return chosen


def target(home: Home) -> tuple[int, bytes] | None:
    """Return (version, bytes) of the target `policy/policy.json`; None: no policy was ever set."""
    if not home.policy.exists():
        return None
    chosen = current(home)
    return chosen.version, policy.encode(chosen)
