# SPDX-License-Identifier: Apache-2.0
"""USB devices: what lsusb shows, and the serial number.

    0781:5581            every device of this product
    0781:*               every product of this vendor
    0781:5581:4C530001   this one; 0781:*:4C530001 whatever its product number says

A serial number is text that the device chooses, compared character by character; `\\xHH` spells a byte that cannot
be seen.
"""

import re
from collections.abc import Iterator

from mamplus_host.ble.paths import spelled_text
from mamplus_host.errors import ConfigInvalid

MAX_SERIAL_BYTES = 126 * 4  # a string descriptor holds 126 UTF-16 units
_DEVICE = re.compile(
    r"(?:0[xX])?(?P<vendor>[0-9a-fA-F]{4}):(?:0[xX])?(?P<product>[0-9a-fA-F]{4}|\*)(?::(?P<serial>.+))?", re.DOTALL
)


def canonical_usb(text: str) -> str:
    """Return the one spelling of a device; ConfigInvalid when it is none."""
    match = _DEVICE.fullmatch(text)
    if match is None:
        raise ConfigInvalid(
            f"{text!r} is no USB device; want vendor:product like 0781:5581, 0781:* or 0781:5581:SERIAL"
        )
    device = f"{match['vendor']}:{match['product']}".lower()
    if match["serial"] in (None, "*"):
        return device
    serial = spelled_text(match["serial"])
    if len(serial.encode()) > MAX_SERIAL_BYTES:
        raise ConfigInvalid(f"{text[:40]!r}: the serial number is longer than USB allows; want at most 126 characters")
    return f"{device}:{serial}"


def wider(value: str) -> Iterator[str]:
    """Yield the canonical values whose entries cover the device `value`, the most specific first."""
    vendor, product, *serial = value.split(":", 2)
    products = dict.fromkeys((product, "*"))
    for one in serial:
        yield from (f"{vendor}:{number}:{one}" for number in products)
    yield from (f"{vendor}:{number}" for number in products)
