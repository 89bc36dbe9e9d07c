"""What a process does with its own certificate: makes a key with a request, and reads names and dates."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fedstudy.errors import RefusedError
from fedstudy.identity import Identity

MAX_PEM = 16 << 10
"""Largest certificate or request that is read, in bytes."""


@dataclass(frozen=True)
class CertificateFacts:
    """What a status shows of a certificate.

    Attributes:
        not_after: when it ends (UTC).
        fingerprint: sha256 of the certificate (DER), hexadecimal.
        not_before: when it begins (UTC).
    """

    not_after: datetime
    fingerprint: str
    not_before: datetime

    def spent(self, now: datetime) -> float:
        """How much of its life is over: 0 when it begins, 1 when it ends."""
        return (now - self.not_before) / (self.not_after - self.not_before)


def make_key_and_csr() -> tuple[str, str]:
    """A new ECDSA P-256 key and a request for it, both PEM. The request carries no name: names are the signer's to give."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return private_pem(key), request.public_bytes(Encoding.PEM).decode("ascii")


def private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """A key as unencrypted PKCS #8."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def requested_key(csr_pem: str) -> ec.EllipticCurvePublicKey:
    """The public key of a request whose signature holds.

    Raises:
        RefusedError: the request cannot be read, is not signed by its own key, or the key is not ECDSA P-256.
    """
    remedy = "Delete the agent's key and let it enrol again."
    if len(csr_pem) > MAX_PEM:
        raise RefusedError(f"The certificate request has {len(csr_pem)} bytes, more than {MAX_PEM}.", remedy)
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        valid, key = request.is_signature_valid, request.public_key()
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise RefusedError(f"The certificate request cannot be read: {error}.", remedy) from None
    except UnsupportedAlgorithm as error:
        raise RefusedError(f"The certificate request uses an unknown algorithm: {error}.", remedy) from None
    if not valid:
        raise RefusedError("The certificate request is not signed by its own key.", remedy)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RefusedError("The certificate request's key is not ECDSA P-256.", remedy)
    return key


def key_fingerprint(csr_pem: str) -> str:
    """sha256 of a request's public key (DER SubjectPublicKeyInfo), hexadecimal.

    Raises:
        RefusedError: as `requested_key`.
    """
    spki = requested_key(csr_pem).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def certificate_facts(pem: str | bytes) -> CertificateFacts:
    """End and fingerprint of a certificate (the first one, where the file holds several).

    Raises:
        RefusedError: it cannot be read.
    """
    certificate = _load(pem)
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    return CertificateFacts(certificate.not_valid_after_utc, fingerprint, certificate.not_valid_before_utc)


def certificate_identity(pem: str | bytes) -> Identity:
    """The identity that a certificate (the first one of the file) gives its holder.

    Raises:
        RefusedError: it cannot be read, or does not carry exactly one identity of fedstudy.
    """
    try:
        names = _load(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        raise RefusedError("The certificate carries no identity of fedstudy.") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise RefusedError(f"The certificate carries {len(uris)} identities, expected one.")
    return Identity.parse(uris[0])


def _load(pem: str | bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode() if isinstance(pem, str) else pem)
    except ValueError as error:
        raise RefusedError(f"The certificate cannot be read: {error}.") from None
