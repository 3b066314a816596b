# SPDX-License-Identifier: Apache-2.0
"""What the signed policy says of isolation: which devices, what lifeline, and what ends it. docs/policy.md.

Journey: policy -> [policy/isolation] -> service, isolation.
"""

from typing import Annotated, Literal

import msgspec

from mamplus_host.errors import ConfigInvalid

MAX_DEVICES = 500  # of 64 digits each, in a policy of 64 KB
EVERY_DEVICE = "*"


class Isolation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the signed policy says of isolation. docs/policy.md."""

    devices: tuple[str, ...] = ()  # ids of devices, or "*", that isolate themselves while they stand here
    lifeline: tuple[Literal["dns", "dhcp", "ntp"], ...] = ("dns", "dhcp", "ntp")
    dead_man_s: Annotated[int, msgspec.Meta(ge=60, le=86_400)] = 600
    on_silence: Literal["trial", "lift"] = "trial"
    trial_s: Annotated[int, msgspec.Meta(ge=60, le=3600)] = 120

    def names(self, device_id: str) -> bool:
        """Whether the enterprise wants this device isolated."""
        return bool(device_id) and any(one in (device_id, EVERY_DEVICE) for one in self.devices)


def check(rules: Isolation) -> None:
    """Raise ConfigInvalid when the policy names what cannot be a device."""
    if len(rules.devices) > MAX_DEVICES:
        raise ConfigInvalid(f"isolation.devices has {len(rules.devices)} of them, want at most {MAX_DEVICES}")
    for one in rules.devices:
        if one != EVERY_DEVICE and not (len(one) == 64 and set(one) <= set("0123456789abcdef")):
            raise ConfigInvalid(
                f'isolation.devices: {one[:80]!r}; want the 64 hex digits of a device id, or "{EVERY_DEVICE}" for all'
            )
