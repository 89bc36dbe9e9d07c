"""The site's certificate: its own key, made here and never sent, and a request signed by the hub under the invitation.

Files in the folder: `tls.key` (mode 0600) and `request.csr`, made together; then `ca.crt` and, last, `tls.crt`, whose being
there means enrolled.
"""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedstudy.errors import RefusedError
from fedstudy.identity import Role
from fedstudy.tensors import write_bytes
from fedstudy.wire.channel import TLSFiles
from fedstudy.wire.credentials import (
    CertificateFacts,
    certificate_facts,
    certificate_identity,
    key_fingerprint,
    make_key_and_csr,
)

PROTOCOL = "fedstudy.v1"
"""What this release speaks; the hub refuses an agent that speaks another."""


class SiteCertificate:
    """The site's key and certificate on disk."""

    def __init__(self, folder: Path, *, site: str) -> None:
        self.folder = folder
        self.site = site
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.files = TLSFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")

    @property
    def enrolled(self) -> bool:
        """Whether a certificate is there (it may have expired)."""
        return self.files.certificate.exists()

    def facts(self) -> CertificateFacts:
        """The certificate's end and fingerprint.

        Raises:
            RefusedError: it cannot be read.
        """
        return certificate_facts(self.files.certificate.read_bytes())

    def request(self) -> str:
        """The request for this site's key, PEM; key and request are made on first use and stay the same ever after."""
        request = self.folder / "request.csr"
        if not request.exists():  # the key of a crash in between was never sent, so it is replaced
            key_pem, csr_pem = make_key_and_csr()
            _write_secret(self.files.key, key_pem.encode())
            write_bytes(request, csr_pem.encode())
        return request.read_text()

    def keep(self, certificate_pem: str, authority_pem: str) -> None:
        """Store the certificate durably.

        Raises:
            RefusedError: it is not for this site or not for its key.
        """
        identity = certificate_identity(certificate_pem)
        if identity.role is not Role.SITE or identity.name != self.site:
            raise RefusedError(
                f"The hub sent a certificate for {identity.uri()}, not for site {self.site!r}.",
                "The invitation was made for another site; ask the hub for one of your own.",
            )
        if _fingerprint(certificate_pem) != key_fingerprint(self.request()):
            raise RefusedError("The hub sent a certificate for another key than this site's.")
        certificate_facts(authority_pem)
        write_bytes(self.files.authority, authority_pem.encode())
        write_bytes(self.files.certificate, certificate_pem.encode())


def expired(facts: CertificateFacts) -> bool:
    """Whether a certificate has ended."""
    return datetime.now(UTC) >= facts.not_after


def _fingerprint(certificate_pem: str) -> str:
    key = x509.load_pem_x509_certificate(certificate_pem.encode()).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _write_secret(path: Path, data: bytes) -> None:
    """Write a file that nobody else can read at any time."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
