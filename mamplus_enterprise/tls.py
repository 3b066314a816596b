# SPDX-License-Identifier: Apache-2.0
"""The enterprise's TLS certificate: self-signed, and trusted by its fingerprint alone."""

import hashlib
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat
from cryptography.x509.oid import NameOID

from mamplus_enterprise.ble.keys import encryption, load_private
from mamplus_enterprise.home import Home
from mamplus_host.files import write_whole

ALWAYS = ("localhost", "127.0.0.1", "::1")
_LIFETIME = timedelta(days=3650)  # devices compare the fingerprint; a new certificate means new enrolment


def make_certificate(folder: Path, name: str, hosts: Iterable[str], passphrase: bytes | None) -> None:
    """Write tls.pem and tls.crt, good for `hosts` and this machine."""
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_name(host) for host in dict.fromkeys((*ALWAYS, *hosts))]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .sign(private, SHA256())
    )
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption(passphrase))
    write_whole(folder / "tls.pem", pem, mode=0o600)
    write_whole(folder / "tls.crt", certificate.public_bytes(Encoding.PEM), mode=0o644)


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def fingerprint(certificate: Path) -> str:
    """Return the SHA-256 of the certificate's DER form, hex."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()


def server_context(home: Home, passphrase: bytes | None) -> ssl.SSLContext:
    """Return what `serve` speaks TLS with; KeysUnavailable when the key cannot be read."""
    load_private(home.keys / "tls.pem", passphrase)  # for its error; ssl's would not name the file
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(home.certificate, home.keys / "tls.pem", password=passphrase or b"")
    return context
