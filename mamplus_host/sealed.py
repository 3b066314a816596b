# SPDX-License-Identifier: Apache-2.0
"""Bytes that only one enterprise can read: a sealed file, as carried on a USB stick.

Both sides use this module. X25519 with a key made for this one file, HKDF-SHA256, ChaCha20-Poly1305
(RFC 7748, 5869, 8439), over the zlib-compressed content; docs/protocol.md has the bytes. Sealing needs the
enterprise's public key alone, so a sealed file says nothing of who made it: what is in it is signed by itself.

Imports the cryptography package (6 MB resident): for command lines, not for the service.
"""

import struct
import zlib
from collections.abc import Iterable
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mamplus_host.errors import ConfigInvalid

MAGIC = b"MAMPSEAL"
VERSION = 1
MAX_CONTENT_BYTES = 256 << 20
_HEADER = struct.Struct(
    "<8sI4x32s32s"
)  # magic, version, SHA-256 of the enterprise's public key, this file's public key
_KEY_BYTES, _NONCE_BYTES = 32, 12


def seal(content: bytes, enterprise_key: bytes) -> bytes:
    """Return `content`, sealed for the enterprise whose X25519 public key (32 raw bytes) is `enterprise_key`."""
    own = X25519PrivateKey.generate()
    header = _HEADER.pack(MAGIC, VERSION, sha256(enterprise_key).digest(), own.public_key().public_bytes_raw())
    shared = own.exchange(X25519PublicKey.from_public_bytes(enterprise_key))
    key, nonce = _keys(shared, header)
    return header + ChaCha20Poly1305(key).encrypt(nonce, zlib.compress(content, 6), header)


def unseal(data: bytes, private_keys: Iterable[X25519PrivateKey]) -> bytes:
    """Return the content of a sealed file; ConfigInvalid when it is none, damaged, or for none of `private_keys`."""
    if len(data) < _HEADER.size or not data.startswith(MAGIC):
        raise ConfigInvalid(  # without what it holds: it may be a secret that was named by mistake
            f"this is no sealed file: it does not begin with {MAGIC.decode()}; want what `mamplus outbox export` wrote"
        )
    _magic, version, recipient, public = _HEADER.unpack_from(data)
    if version != VERSION:
        raise ConfigInvalid(
            f"the sealed file has version {version}, this release reads {VERSION}: update the enterprise"
        )
    key = _fitting(private_keys, recipient)
    try:
        shared = key.exchange(X25519PublicKey.from_public_bytes(public))
        secret, nonce = _keys(shared, data[: _HEADER.size])
        packed = ChaCha20Poly1305(secret).decrypt(nonce, data[_HEADER.size :], data[: _HEADER.size])
    except (InvalidTag, ValueError):  # ValueError: a public key that leads to no secret
        raise ConfigInvalid("the sealed file is damaged, or cut off; export it again on the device") from None
    return _unpacked(packed)


def _fitting(private_keys: Iterable[X25519PrivateKey], recipient: bytes) -> X25519PrivateKey:
    for key in private_keys:
        if sha256(key.public_key().public_bytes_raw()).digest() == recipient:
            return key
    raise ConfigInvalid(
        f"the file was sealed for key {recipient.hex()[:16]}, which is not here; is it another enterprise's, or its"
        " key kept elsewhere?"
    )


def _keys(shared: bytes, header: bytes) -> tuple[bytes, bytes]:
    """Return key and nonce. The header names both public keys, so they are bound to the secret."""
    made = HKDF(SHA256(), _KEY_BYTES + _NONCE_BYTES, salt=None, info=header).derive(shared)
    return made[:_KEY_BYTES], made[_KEY_BYTES:]


def _unpacked(packed: bytes) -> bytes:
    """Return the decompressed content. Anybody can seal, so its size is bounded."""
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, MAX_CONTENT_BYTES)
    except zlib.error:
        raise ConfigInvalid("what was sealed is not as agreed; export it again on the device") from None
    if not unpacker.eof:
        raise ConfigInvalid(f"the sealed file holds more than {MAX_CONTENT_BYTES} bytes: this is no export of a device")
    return content
