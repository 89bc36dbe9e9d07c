"""Authorities and certificates as Secrets: made once, renewed in time, never made again while they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from fedstudy.identity import Identity
from fedstudy_operator.api.meta import GROUP
from fedstudy_operator.children.common import Owner, child, decode, encode, tls_secret
from fedstudy_operator.cluster import Cluster, Key, NotFoundError, Object
from fedstudy_operator.pki import KeyPair, belong_together, issue, make_authority

MANAGER = "fedstudy-operator"
AUTHORITY_DAYS = 3650.0
LEAF_DAYS = 365.0
INVITATION_DAYS = 14.0
REPLACE = f"{GROUP}/replace-authority"
"""Annotation of a study: the fingerprint of its authority, which is lost or has leaked and is to be replaced by a new one."""
REPLACES = f"{GROUP}/replaces"
"""Annotation of an authority's Secret: the fingerprint of the one that it was made instead of."""


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


class AuthorityLostError(Exception):
    """An authority that others trust is not there any more; the message says what can be done."""


@dataclass(frozen=True)
class Trust:
    """Which authority others trust already.

    Attributes:
        fingerprint: of the one that they trust; empty: nobody trusts one yet.
        replace: of the one that a person wants to be replaced. It names a fingerprint, so that a word that was left standing does not
            replace the next one too.
    """

    fingerprint: str = ""
    replace: str = ""

    @property
    def ended(self) -> bool:
        """Whether the one that is trusted is to be replaced."""
        return self.fingerprint != "" and self.replace == self.fingerprint

    def accepts(self, pair: KeyPair, secret: Object | None) -> bool:
        """Whether an authority that is there is to be used."""
        if self.ended:  # made for this very wish in a pass that did not come to its end
            return _annotations(secret).get(REPLACES) == self.replace
        return self.fingerprint in ("", fingerprint(pair.certificate_pem))


class Certificates:
    """The certificates under one owner's authority."""

    def __init__(self, cluster: Cluster, owner: Owner) -> None:
        self._cluster = cluster
        self._owner = owner

    async def authority(self, common_name: str, trust: Trust | None = None) -> KeyPair:
        """The owner's authority: made on the first call, and the same ever after.

        Raises:
            AuthorityLostError: it is not there any more though others trust it, and nobody has asked for another.
        """
        trust, name = trust or Trust(), self._owner.child("authority")
        present = await get(self._cluster, Key("Secret", self._owner.namespace, name))
        pair = _authority(present)
        if pair is not None and trust.accepts(pair, present):
            return pair
        if trust.fingerprint and not trust.ended:
            raise AuthorityLostError(_lost(self._owner, name, present, pair, trust.fingerprint))
        pair = make_authority(common_name[:64], AUTHORITY_DAYS)
        data = encode({"tls.crt": pair.certificate_pem, "tls.key": pair.key_pem})
        secret = child("v1", "Secret", self._owner, name, "authority", type="kubernetes.io/tls", data=data)
        if trust.ended:
            secret["metadata"]["annotations"] = {REPLACES: trust.replace}
        await self._cluster.apply(secret, manager=MANAGER)
        return pair

    async def leaf(self, authority: KeyPair, wanted: Leaf, now: datetime | None = None) -> KeyPair:
        """A certificate of the authority; made again when a third of its time is left, or when another authority signed it."""
        now = now or datetime.now(UTC)
        present = await get(self._cluster, Key("Secret", self._owner.namespace, wanted.name))
        files = decode(present) if present else {}
        if _holds(files, authority, now):
            return KeyPair(files["tls.crt"], files["tls.key"])
        pair = issue(
            authority,
            identity=wanted.identity,
            dns_names=wanted.dns_names,
            days=LEAF_DAYS,
            server=wanted.server,
            client=wanted.client,
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


def _annotations(obj: Object | None) -> Mapping[str, str]:
    found: Mapping[str, str] = ((obj or {}).get("metadata") or {}).get("annotations") or {}
    return found


def _authority(secret: Object | None) -> KeyPair | None:
    """The authority in a Secret; None where there is none, or none that could sign."""
    try:
        files = decode(secret) if secret else {}
        pair = KeyPair(files["tls.crt"], files["tls.key"])
        return pair if belong_together(pair) else None
    except (KeyError, ValueError):
        return None


def _lost(owner: Owner, name: str, present: Object | None, pair: KeyPair | None, trusted: str) -> str:
    """What has happened to an authority, and what can be done."""
    if present is None:
        what = f"the Secret {name} is gone"
    elif pair is None:
        what = f"the Secret {name} holds no certificate with its key"
    else:
        what = f"the Secret {name} holds another authority, {fingerprint(pair.certificate_pem)}"
    return (
        f"{what}; the sites trust {trusted}. What it has signed holds until it ends; no site can join or renew. Restore the Secret from a"
        f" backup; or, if there is none, have a new authority made and invite every site anew:"
        f" kubectl annotate fstudy {owner.name} {REPLACE}={trusted}"
    )


def _holds(files: Mapping[str, str], authority: KeyPair, now: datetime) -> bool:
    """Whether a leaf's files are whole, of this authority, and not due for renewal; what somebody spoilt is made again."""
    if files.get("ca.crt") != authority.certificate_pem or "tls.key" not in files:
        return False
    try:
        return now < renew_at(files.get("tls.crt", ""))
    except ValueError:
        return False


def seconds_until(when: datetime, now: datetime | None = None) -> float:
    """Seconds until a time, at least one minute and at most ten."""
    left = when - (now or datetime.now(UTC))
    return max(60.0, min(600.0, left / timedelta(seconds=1)))
