# SPDX-License-Identifier: Apache-2.0
"""Who this device is: its key, and how its requests are signed.

Journey: outbox -> [identity] -> enterprise; docs/protocol.md, "Signed requests".

`state/identity/device.key`       Ed25519, PKCS#8 PEM, mode 0600; never leaves the device
`state/identity/enterprise.json`  whom it belongs to; written last, so a device is enrolled or it is not
`state/trust/root.json`           the root of trust for every BLE generation

`enroll.py` makes them. Signing is done by the system's libcrypto, which Python's ssl has mapped
already: the cryptography package costs 6 MB resident (kernel_probes/native/device_key.c).
"""

import base64
import hashlib
from pathlib import Path

from mamplus_host.enterprise import Enterprise, load_enterprise
from mamplus_host.errors import EnrollRefused
from mamplus_host.outbox._device_key import ffi, lib

_PUBLIC_BYTES, _SIGNATURE_BYTES = 32, 64


class Identity:
    """The device's key, and its enterprise."""

    def __init__(self, pem: bytes, enterprise: Enterprise) -> None:
        """`pem`: an unencrypted Ed25519 private key, PKCS#8; EnrollRefused when it is something else."""
        key = lib.mamplus_key_open(pem, len(pem))
        if key == ffi.NULL:
            raise EnrollRefused("the device's key is no Ed25519 key; enroll again with --force")
        self._key = ffi.gc(key, lib.mamplus_key_close)
        self.enterprise = enterprise

    @property
    def device_id(self) -> str:
        return self.enterprise.device_id

    @classmethod
    def load(cls, state: Path) -> "Identity":
        """Return the identity kept in `state`; EnrollRefused when there is none, or it is damaged."""
        enterprise = load_enterprise(state)
        if enterprise is None:
            raise EnrollRefused("this device is not enrolled; run: mamplus enroll URL --token TOKEN")
        identity = cls(_read_key(key_path(state)), enterprise)
        if device_id_of(identity.public_key()) != enterprise.device_id:
            raise EnrollRefused(f"{str(key_path(state))!r} is not the key that was enrolled; enroll again with --force")
        return identity

    def public_key(self) -> bytes:
        """Return the 32 raw bytes of the public key."""
        public = ffi.new("unsigned char[]", _PUBLIC_BYTES)
        if lib.mamplus_key_public(self._key, public):
            raise EnrollRefused("libcrypto cannot read the device's key; enroll again with --force")
        return bytes(ffi.buffer(public))

    def sign(self, data: bytes) -> bytes:
        """Return the 64 bytes of the Ed25519 signature over `data`."""
        signature = ffi.new("unsigned char[]", _SIGNATURE_BYTES)
        if lib.mamplus_key_sign(self._key, data, len(data), signature):
            raise EnrollRefused("libcrypto cannot sign with the device's key; enroll again with --force")
        return bytes(ffi.buffer(signature))

    def headers(self, method: str, path: str, body: bytes, *, now_s: int) -> dict[str, str]:
        """Return the headers of a signed request; `path` includes the query."""
        text = f"{method}\n{path}\n{now_s}\n{hashlib.sha256(body).hexdigest()}"
        return {
            "Mamplus-Device": self.device_id,
            "Mamplus-Time": str(now_s),
            "Mamplus-Signature": base64_text(self.sign(text.encode())),
        }


def verifies(public_key: bytes, data: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of `data` by the Ed25519 key with these 32 raw bytes."""
    if len(public_key) != _PUBLIC_BYTES or len(signature) != _SIGNATURE_BYTES:
        return False
    return bool(lib.mamplus_signature_fits(public_key, data, len(data), signature))


def device_id_of(public_key: bytes) -> str:
    """Return the name of the device that holds the key: SHA-256 of its raw public key, hex."""
    return hashlib.sha256(public_key).hexdigest()


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def key_path(state: Path) -> Path:
    return state / "identity" / "device.key"


def _read_key(path: Path) -> bytes:
    try:
        if path.stat().st_mode & 0o077:
            raise EnrollRefused(f"others may read {str(path)!r}; if someone did, enroll again; else: chmod 600 {path}")
        return path.read_bytes()
    except OSError as error:
        raise EnrollRefused(f"cannot read the device's key: {error}; enroll again with --force") from None
