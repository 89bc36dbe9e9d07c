"""Authorities and what they sign: names are ours, keys are ECDSA P-256, a leaf is what it was made for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstudy.errors import RefusedError
from fedstudy.identity import Identity, Role
from fedstudy.wire.credentials import (
    certificate_facts,
    certificate_identity,
    key_fingerprint,
    make_key_and_csr,
)
from fedstudy_operator.pki import CLOCK_SKEW, KeyPair, issue, make_authority, sign_csr

SITE = Identity("hub.example", "study", "study-1", Role.SITE, "hospital-a")
AGGREGATOR = Identity("hub.example", "study", "study-1", Role.AGGREGATOR)


@pytest.fixture(scope="module")
def authority() -> KeyPair:
    return make_authority("study-1", days=10)


def _load(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def _usages(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_an_authority_signs_leaves_only(authority: KeyPair) -> None:
    certificate = _load(authority.certificate_pem)
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical and basic.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign and not usage.digital_signature


def test_a_server_certificate_verifies_by_name(authority: KeyPair) -> None:
    pair = issue(authority, identity=AGGREGATOR, dns_names=["aggregator"], days=1, server=True, client=False)
    store = verification.Store([_load(authority.certificate_pem)])
    verifier = verification.PolicyBuilder().store(store).build_server_verifier(x509.DNSName("aggregator"))
    verifier.verify(_load(pair.certificate_pem), [])
    assert certificate_identity(pair.certificate_pem) == AGGREGATOR
    assert _usages(_load(pair.certificate_pem)) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_a_client_certificate_verifies_and_is_none_for_a_server(authority: KeyPair) -> None:
    pair = issue(authority, identity=SITE, dns_names=[], days=1, server=False, client=True)
    store = verification.Store([_load(authority.certificate_pem)])
    verified = (
        verification.PolicyBuilder()
        .store(store)
        .build_client_verifier()
        .verify(_load(pair.certificate_pem), [])
    )
    assert verified.subjects is not None
    assert [name.value for name in verified.subjects] == [SITE.uri()]
    assert _usages(_load(pair.certificate_pem)) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_both_usages_can_be_asked_for(authority: KeyPair) -> None:
    pair = issue(authority, identity=AGGREGATOR, dns_names=["aggregator"], days=1, server=True, client=True)
    assert set(_usages(_load(pair.certificate_pem))) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }


def test_certificates_begin_early_and_end_on_time(authority: KeyPair) -> None:
    now = datetime.now(UTC)
    pair = issue(authority, identity=SITE, dns_names=[], days=0.5, server=False, client=True)
    certificate = _load(pair.certificate_pem)
    assert certificate.not_valid_before_utc <= now - CLOCK_SKEW + timedelta(seconds=1)
    assert abs(certificate.not_valid_after_utc - now - timedelta(hours=12)) < timedelta(minutes=1)
    facts = certificate_facts(pair.certificate_pem)
    assert facts.not_after == certificate.not_valid_after_utc
    assert facts.fingerprint == certificate.fingerprint(hashes.SHA256()).hex()


def test_no_certificate_outlives_its_authority(authority: KeyPair) -> None:
    pair = issue(authority, identity=SITE, dns_names=[], days=1000, server=False, client=True)
    assert (
        certificate_facts(pair.certificate_pem).not_after
        == certificate_facts(authority.certificate_pem).not_after
    )


def test_negative_days_give_an_expired_certificate(authority: KeyPair) -> None:
    pair = issue(authority, identity=SITE, dns_names=[], days=-1, server=False, client=True)
    certificate = _load(pair.certificate_pem)
    assert certificate.not_valid_before_utc < certificate.not_valid_after_utc < datetime.now(UTC)


def test_a_request_is_signed_with_our_names_whatever_it_asks_for(authority: KeyPair) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "aggregator")]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("aggregator")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )
    certificate = _load(sign_csr(authority, greedy, identity=SITE, days=1))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [SITE.uri()]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert _usages(certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert "aggregator" not in certificate.subject.rfc4514_string()
    assert certificate.public_key() == key.public_key()


def test_a_key_made_here_fits_its_certificate(authority: KeyPair) -> None:
    key_pem, csr_pem = make_key_and_csr()
    certificate = _load(sign_csr(authority, csr_pem, identity=SITE, days=1))
    key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    assert certificate.public_key() == key.public_key()
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = hashes.Hash(hashes.SHA256())
    digest.update(spki)
    assert key_fingerprint(csr_pem) == digest.finalize().hex()


def test_a_request_that_its_key_did_not_sign_is_refused(authority: KeyPair) -> None:
    _, csr_pem = make_key_and_csr()
    der = bytearray(x509.load_pem_x509_csr(csr_pem.encode()).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(RefusedError, match="not signed by its own key"):
        sign_csr(authority, forged, identity=SITE, days=1)


@pytest.mark.parametrize("kind", ["rsa", "p384"])
def test_a_key_of_another_kind_is_refused(authority: KeyPair, kind: str) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    key = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP384R1())
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(RefusedError, match="not ECDSA P-256"):
        sign_csr(authority, pem, identity=SITE, days=1)


@settings(deadline=None)
@given(st.one_of(st.text(max_size=300), st.binary(max_size=300).map(lambda data: data.hex())))
def test_what_is_no_request_is_refused(text: str) -> None:
    for pem in (text, f"-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n"):
        with pytest.raises(RefusedError):
            key_fingerprint(pem)
        with pytest.raises(RefusedError):
            certificate_identity(pem.replace(" REQUEST", ""))


@settings(deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_damaged_request_is_refused_or_still_sound(position: int, value: int) -> None:
    der = bytearray(x509.load_pem_x509_csr(_CSR.encode()).public_bytes(serialization.Encoding.DER))
    der[position % len(der)] = value
    pem = f"-----BEGIN CERTIFICATE REQUEST-----\n{_base64(bytes(der))}\n-----END CERTIFICATE REQUEST-----\n"
    try:
        key_fingerprint(pem)
    except RefusedError as error:
        assert error.remedy


def test_a_request_of_a_megabyte_is_refused_unread() -> None:
    with pytest.raises(RefusedError, match="more than 16384"):
        key_fingerprint("x" * (1 << 20))


def test_no_key_stands_in_what_is_printed(authority: KeyPair) -> None:
    assert "BEGIN" not in repr(authority)


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()


_, _CSR = make_key_and_csr()
