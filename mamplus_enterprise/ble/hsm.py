# SPDX-License-Identifier: Apache-2.0
"""Keys that never leave a PKCS#11 token: smart card, HSM, SoftHSM.

A key is named by a URI (RFC 7512), as in

    pkcs11:token=mam;id=%02?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/root/pin

and is an EC key on P-256 or P-384 with a public object beside it. securesystemslib signs; it takes
the module from an environment variable and the key from a number, so both are made from the URI.
Needs python-pkcs11, which only the enterprise installs.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import msgspec
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import (  # type: ignore[attr-defined]  # re-exported in its documents
    HSMSigner,
    Signature,
    Signer,
    SSlibKey,
)

from mamplus_enterprise.errors import KeysUnavailable
from mamplus_host.errors import ConfigInvalid
from mamplus_host.files import write_whole

MODULE_VARIABLE = "PYKCS11LIB"
MAX_PIN_BYTES = 255
_EXAMPLE = "pkcs11:token=LABEL;id=%02?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/PATH"


@dataclass(frozen=True, slots=True)
class TokenKey:
    """Where a key lies."""

    uri: str
    token: str  # label of the token
    number: int  # CKA_ID of the key, as a number
    module: str  # path of the PKCS#11 library
    pin_source: str  # path of a file whose first line is the PIN

    def pin(self, _prompt: str = "") -> str:
        """Return the PIN; read when it is needed, and never kept."""
        try:
            with Path(self.pin_source).open("rb") as file:
                return file.read(MAX_PIN_BYTES).split(b"\n")[0].decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise KeysUnavailable(f"pin-source {self.pin_source!r}: {error}; want a readable file") from None


class _Reference(msgspec.Struct):
    """Content of a `.uri` file."""

    uri: str
    keyid: str
    key: dict[str, object]  # the public key, as TUF writes it


def parse_uri(uri: str) -> TokenKey:
    """Return what `uri` names; ConfigInvalid says which part is missing."""
    scheme, _, rest = uri.strip().partition(":")
    path, _, query = rest.partition("?")
    parts = dict(part.partition("=")[::2] for part in [*path.split(";"), *query.split("&")])
    missing = [name for name in ("token", "id", "module-path", "pin-source") if not parts.get(name)]
    if scheme != "pkcs11" or missing:
        raise ConfigInvalid(f"{uri!r} lacks {', '.join(missing) or 'the scheme pkcs11:'}; want one like {_EXAMPLE}")
    number = int.from_bytes(unquote(parts["id"], encoding="latin-1").encode("latin-1"), "big")
    pin_source = unquote(parts["pin-source"]).removeprefix("file:")
    return TokenKey(uri.strip(), unquote(parts["token"]), number, unquote(parts["module-path"]), pin_source)


def adopt(uri: str) -> HSMSigner:
    """Return the signer of a token's key after it signed and was verified once."""
    where = parse_uri(uri)
    try:
        _use_module(where)
        _, public = HSMSigner.import_(where.number, where.token, where.pin)
        signer = _TokenSigner(where, public)
        public.verify_signature(signer.sign(b"mamplus"), b"mamplus")
    except KeysUnavailable:
        raise
    except Exception as error:  # python-pkcs11 raises its own tree, ValueError and what dlopen says
        raise _unavailable(where, error) from None
    return signer


def write_reference(path: Path, uri: str, key: SSlibKey) -> None:
    """Note where a key is, so that it is found by its role as a file would be."""
    reference = _Reference(uri, key.keyid, key.to_dict())
    write_whole(path, msgspec.json.format(msgspec.json.encode(reference)), mode=0o600)


def load_token_signer(path: Path) -> Signer:
    """Return the signer of a `.uri` file; the token is asked when it signs."""
    try:
        reference = msgspec.json.decode(path.read_bytes(), type=_Reference)
        public = SSlibKey.from_dict(reference.keyid, dict(reference.key))
    except (OSError, msgspec.MsgspecError, ValueError, KeyError) as error:
        raise KeysUnavailable(f"{str(path)!r} cannot be read: {error}; say `keys use` again") from None
    return _TokenSigner(parse_uri(reference.uri), public)


class _TokenSigner(HSMSigner):
    """HSMSigner for one URI; says which key when the token refuses."""

    def __init__(self, where: TokenKey, public: SSlibKey) -> None:
        try:
            super().__init__(where.number, public, where.pin, where.token)
        except UnsupportedLibraryError as error:
            raise _unavailable(where, error) from None
        self._where = where

    def sign(self, payload: bytes) -> Signature:
        try:
            _use_module(self._where)
            return super().sign(payload)
        except KeysUnavailable:
            raise
        except Exception as error:  # see `adopt`
            raise _unavailable(self._where, error) from None


def _use_module(where: TokenKey) -> None:
    if not Path(where.module).is_file():
        raise KeysUnavailable(f"there is no PKCS#11 library {where.module!r}; install it, or correct module-path")
    os.environ[MODULE_VARIABLE] = where.module


def _unavailable(where: TokenKey, error: Exception) -> KeysUnavailable:
    words = str(error) or type(error).__name__
    return KeysUnavailable(
        f"key {where.number} on token {where.token!r}: {words}; plug the token in, check its label, id and PIN"
    )
