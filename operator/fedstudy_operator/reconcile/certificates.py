"""Authorities and certificates as Secrets: made once, renewed in time, never made again while they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from fedstudy.identity import Identity
from fedstudy_operator.children.common import Owner, child, decode, encode, tls_secret
from fedstudy_operator.cluster import Cluster, Key, NotFoundError, Object
from fedstudy_operator.pki import KeyPair, issue, make_authority

MANAGER = "fedstudy-operator"
AUTHORITY_DAYS = 3650.0
LEAF_DAYS = 365.0
INVITATION_DAYS = 14.0


async def get(cluster: Cluster, key: Key) -> Object | None:
    """The object, or None."""
    try:
        return await cluster.get(key)
    except NotFoundError:
        return None


def not_after(certificate_pem: str) -> datetime:
    """When a certificate ends."""
    return x509.load_pem_x509_certificate(certificate_pem.encode()).not_valid_after_utc


def renew_at(certificate_pem: str) -> datetime:
    """When a third of a certificate's time is left."""
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return end - (end - begin) / 3


def fingerprint(certificate_pem: str) -> str:
    """sha256 of a certificate."""
    return (
        "sha256:"
        + x509.load_pem_x509_certificate(certificate_pem.encode()).fingerprint(hashes.SHA256()).hex()
    )


@dataclass(frozen=True)
class Leaf:
    """A certificate that is wanted."""

    name: str
    component: str
    identity: Identity
    dns_names: Sequence[str] = ()
    server: bool = False
    client: bool = False


class Certificates:
    """The certificates under one owner's authority."""

    def __init__(self, cluster: Cluster, owner: Owner) -> None:
        self._cluster = cluster
        self._owner = owner

    async def authority(self, common_name: str) -> KeyPair:
        """The owner's authority: made on the first call, and the same ever after."""
        name = self._owner.child("authority")
        present = await get(self._cluster, Key("Secret", self._owner.namespace, name))
        if present is not None:
            files = decode(present)
            return KeyPair(files["tls.crt"], files["tls.key"])
        pair = make_authority(common_name[:64], AUTHORITY_DAYS)
        data = encode({"tls.crt": pair.certificate_pem, "tls.key": pair.key_pem})
        secret = child("v1", "Secret", self._owner, name, "authority", type="kubernetes.io/tls", data=data)
        await self._cluster.apply(secret, manager=MANAGER)
        return pair

    async def leaf(self, authority: KeyPair, wanted: Leaf, now: datetime | None = None) -> KeyPair:
        """A certificate of the authority; made again when a third of its time is left, or when another authority signed it."""
        now = now or datetime.now(UTC)
        present = await get(self._cluster, Key("Secret", self._owner.namespace, wanted.name))
        files = decode(present) if present else {}
        good = (
            files.get("ca.crt") == authority.certificate_pem
            and "tls.key" in files
            and now < renew_at(files["tls.crt"])
        )
        pair = (
            KeyPair(files["tls.crt"], files["tls.key"])
            if good
            else issue(
                authority,
                identity=wanted.identity,
                dns_names=wanted.dns_names,
                days=LEAF_DAYS,
                server=wanted.server,
                client=wanted.client,
            )
        )
        secret = tls_secret(
            self._owner,
            wanted.name,
            wanted.component,
            certificate=pair.certificate_pem,
            key=pair.key_pem,
            authority=authority.certificate_pem,
        )
        await self._cluster.apply(secret, manager=MANAGER)
        return pair


def seconds_until(when: datetime, now: datetime | None = None) -> float:
    """Seconds until a time, at least one minute and at most ten."""
    left = when - (now or datetime.now(UTC))
    return max(60.0, min(600.0, left / timedelta(seconds=1)))
