"""Certificate authorities of studies and participants, and what they sign. Every name in a certificate is ours, never a request's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedstudy.errors import ManifestError
from fedstudy.identity import Identity
from fedstudy.wire.credentials import private_pem, requested_key

CLOCK_SKEW = timedelta(minutes=5)
"""Certificates begin this much in the past, for peers whose clocks are behind."""


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its key, both PEM."""

    certificate_pem: str
    key_pem: str

    def __repr__(self) -> str:
        return "KeyPair(…)"  # keys do not belong in logs


def make_authority(common_name: str, days: float) -> KeyPair:
    """A new authority that signs leaves only (path length 0).

    Args:
        common_name: its name for people, at most 64 characters.
        days: how long it holds; negative: already expired.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        _dated(x509.CertificateBuilder(), days)
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(identifier, critical=False)
    )
    return KeyPair(_pem(builder.sign(key, hashes.SHA256())), private_pem(key))


def issue(
    authority: KeyPair,
    *,
    identity: Identity,
    dns_names: Sequence[str],
    days: float,
    server: bool,
    client: bool,
) -> KeyPair:
    """A new key with a certificate for it.

    Args:
        authority: who signs.
        identity: the one URI of the certificate.
        dns_names: TLS server names; none for clients.
        days: how long it holds, at most as long as the authority; negative: already expired.
        server: may be presented by a server.
        client: may be presented by a client.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * client
    return KeyPair(_sign(authority, key.public_key(), identity, dns_names, days, usages), private_pem(key))


def belong_together(pair: KeyPair) -> bool:
    """Whether the key is the certificate's. Raises ValueError where one of them cannot be read."""
    key = load_pem_private_key(pair.key_pem.encode(), password=None)
    certificate = x509.load_pem_x509_certificate(pair.certificate_pem.encode())
    return isinstance(key, ec.EllipticCurvePrivateKey) and certificate.public_key() == key.public_key()


def sign_csr(authority: KeyPair, csr_pem: str, *, identity: Identity, days: float) -> str:
    """A client certificate for a request's public key; all else in the request is ignored.

    Raises:
        RefusedError: the request cannot be read, is not signed by its own key, or the key is not ECDSA P-256.
    """
    return _sign(authority, requested_key(csr_pem), identity, (), days, [ExtendedKeyUsageOID.CLIENT_AUTH])


def _sign(
    authority: KeyPair,
    public_key: ec.EllipticCurvePublicKey,
    identity: Identity,
    dns_names: Sequence[str],
    days: float,
    usages: Sequence[x509.ObjectIdentifier],
) -> str:
    issuer, issuer_key = _authority(authority)
    uri = x509.UniformResourceIdentifier(Identity.parse(identity.uri()).uri())  # RefusedError: no valid name
    names: list[x509.GeneralName] = [uri, *(x509.DNSName(name) for name in dns_names)]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedstudy {identity.role.value}")])
    builder = (
        _dated(x509.CertificateBuilder(), days, issuer.not_valid_after_utc)
        .subject_name(subject)
        .issuer_name(issuer.subject)
        .public_key(public_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )
    return _pem(builder.sign(issuer_key, hashes.SHA256()))


def _authority(pair: KeyPair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = load_pem_private_key(pair.key_pem.encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ManifestError(
            "The authority's key is not an elliptic-curve key.", "Delete its Secret; it is made anew."
        )
    return x509.load_pem_x509_certificate(pair.certificate_pem.encode()), key


def _dated(
    builder: x509.CertificateBuilder, days: float, latest: datetime | None = None
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    if latest is not None:
        end = min(end, latest)
    begin = min(now - CLOCK_SKEW, end - CLOCK_SKEW)  # the latter: an expired certificate, for tests
    return builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode("ascii")
