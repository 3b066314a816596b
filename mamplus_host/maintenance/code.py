# SPDX-License-Identifier: Apache-2.0
"""A maintenance code: which device, until when it may be entered, for how long; signed. Bytes and text, no keys.

Journey: enterprise (`maintenance DEVICE`) -> phone, paper, QR -> [code] -> window.

78 bytes: 14 that say it, and the 64 of an Ed25519 signature over them and the whole device id. As text five
lines of five groups of five letters, in Crockford's base32 (neither I, L, O nor U; read either way), and a letter
more at the end of each line, which shows a line that was misheard. 130 letters: two minutes over the phone. A shorter
code would have to be made with a secret that the device has, too, and root reads whatever the device has.
"""

import re
import secrets
import struct

import msgspec

from mamplus_host.errors import CodeMalformed

MIN_MINUTES, MAX_MINUTES = 1, 7 * 24 * 60
_VERSION = 1
_HEAD = struct.Struct(">B3sIH4s")  # version, start of the device id, seconds since the epoch, minutes, once
_SIGNATURE_BYTES = 64
_BYTES = _HEAD.size + _SIGNATURE_BYTES
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_READ = {letter: value for value, letter in enumerate(_ALPHABET)} | {"O": 0, "I": 1, "L": 1}
_LETTERS = 125  # of all bytes: 624 bits, a letter has five
_LINE = 25
_CHECK = 31  # a prime: it shows one wrong letter, and two that changed places
_SPACES = re.compile(r"[\s\-]+")


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """What a code says."""

    device: bytes  # the first three bytes of the device's id
    expires_s: int  # seconds since the epoch: it may be entered before that
    minutes: int  # how long the window is open
    once: bytes  # four random bytes: no two codes are the same

    @property
    def id(self) -> str:
        """The name of the code in journals, 8 hex digits."""
        return self.once.hex()

    def is_for(self, device_id: str) -> bool:
        return device_id.startswith(self.device.hex())

    def head(self) -> bytes:
        return _HEAD.pack(_VERSION, self.device, self.expires_s, self.minutes, self.once)


def new(device_id: str, *, expires_s: int, minutes: int) -> Code:
    """Return a code for the device with this id (hex), with a name of its own."""
    return Code(device=bytes.fromhex(device_id)[:3], expires_s=expires_s, minutes=minutes, once=secrets.token_bytes(4))


def signed_text(code: Code, device_id: str) -> bytes:
    """Return what is signed: the code for this very device."""
    return b"mamplus-maintenance\n" + device_id.encode() + b"\n" + code.head()


def spell(code: Code, signature: bytes) -> str:
    """Return the code as text: five lines."""
    letters = _letters(code.head() + signature)
    lines = [letters[at : at + _LINE] for at in range(0, _LETTERS, _LINE)]
    return "\n".join(" ".join([*(line[at : at + 5] for at in range(0, _LINE, 5)), _check(line)]) for line in lines)


def read(text: str) -> tuple[Code, bytes]:
    """Return the code and its signature; CodeMalformed says which line was misheard, or what is missing."""
    letters = _SPACES.sub("", text).upper()
    wrong = next((letter for letter in letters if letter not in _READ), "")
    if wrong:
        raise CodeMalformed(f"{wrong!r} stands in no code; want the digits and the letters {_ALPHABET[10:]}")
    if len(letters) != _LETTERS + _LETTERS // _LINE:
        raise CodeMalformed(f"the code has {len(letters)} letters, want five lines of 26: read it again")
    parts = [letters[at : at + _LINE + 1] for at in range(0, len(letters), _LINE + 1)]
    for number, part in enumerate(parts, 1):
        if _READ[_check(part[:-1])] != _READ[part[-1]]:
            raise CodeMalformed(f"line {number} of the code does not add up: have it read again")
    data = _bytes("".join(part[:-1] for part in parts))
    version, device, expires_s, minutes, once = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise CodeMalformed(f"the code is of version {version}, want {_VERSION}: update the agent")
    return Code(device=device, expires_s=expires_s, minutes=minutes, once=once), data[_HEAD.size :]


def _letters(data: bytes) -> str:
    number = int.from_bytes(data) << (_LETTERS * 5 - _BYTES * 8)
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(_LETTERS)))


def _bytes(letters: str) -> bytes:
    number = 0
    for letter in letters:
        number = number << 5 | _READ[letter]
    return (number >> (_LETTERS * 5 - _BYTES * 8)).to_bytes(_BYTES)


def _check(line: str) -> str:
    return _ALPHABET[sum(place * _READ[letter] for place, letter in enumerate(line, 1)) % _CHECK]
