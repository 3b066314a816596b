# SPDX-License-Identifier: Apache-2.0
"""Hashes under which texts are keyed in the list: FNV-1a, 64 bits. A hash that fits is a hint, the text decides.

In C (kernel_probes/native/ble_file.c), which checks them too: a million names took 10 s in Python.
"""

from mamplus_host.ble._file import lib

_MASK64 = (1 << 64) - 1


def text_hash(text: str) -> int:
    """Return FNV-1a 64 of the UTF-8 bytes of `text`."""
    data = text.encode()
    return int(lib.mamplus_ble_text_hash(data, len(data)))


def domain_hash(name: str) -> int:
    """Return FNV-1a 64 over the name's bytes from the last to the first.

    The key of a name in the file. The kernel asks by another hash, salted by the device
    (mamplus_identity.h), which is made from the text.
    """
    data = name.encode("ascii")
    return int(lib.mamplus_ble_name_hash(data, len(data)))


def domain_key(value: str) -> int:
    """Return the key of a canonical domain: `domain_hash` of the name, its complement for `=name`."""
    return ~domain_hash(value[1:]) & _MASK64 if value.startswith("=") else domain_hash(value)


def package_key(value: str) -> int:
    """Return the key of a canonical package: `text_hash` of its name, so that one search finds all its ranges."""
    data = value.encode()
    return int(lib.mamplus_ble_text_hash(data, lib.mamplus_package_name(data, len(data))))
