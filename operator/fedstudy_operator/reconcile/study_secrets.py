"""The Secrets of studies: authority, certificates and invitations; when they are looked at, and what was found.

Nobody tells of Secrets where the operator works in all namespaces, so they are looked at every few minutes, and when something speaks
against them. What is kept in memory is no key of an authority: it is read when something is to be signed.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fedstudy.identity import Identity, Role
from fedstudy_operator.api.conditions import Reason
from fedstudy_operator.api.study import FederatedStudy
from fedstudy_operator.children import study as children
from fedstudy_operator.children.common import SITE, Settings, decode
from fedstudy_operator.cluster import Cluster, Key, Object
from fedstudy_operator.pki import KeyPair, issue
from fedstudy_operator.reconcile.certificates import (
    INVITATION_DAYS,
    MANAGER,
    REPLACE,
    AuthorityLostError,
    Certificates,
    Leaf,
    Trust,
    fingerprint,
    get,
    not_after,
    renew_at,
    seconds_until,
)

LOOK_SECONDS = 30.0
"""How often the Secrets of a study are looked at while its aggregator's pod is kept from running, or its authority is lost."""
_AT_ONCE = 8
"""Invitations of one study that are looked at together."""


@dataclass(frozen=True)
class _About:
    """What of a spec its Secrets depend on."""

    endpoint: str
    sites: frozenset[str]


@dataclass(frozen=True)
class Client:
    """Who the operator is to an aggregator; PEM."""

    certificate: str
    key: str = field(repr=False)
    authority: str


@dataclass(frozen=True)
class Issued:
    """What a look at a study's Secrets found.

    Attributes:
        fingerprint: of the authority that the sites trust.
        about: what of the spec the Secrets depend on.
        until: when to look again, by the loop's clock.
        looked: when they were looked at, by the same clock.
        client: the operator's certificate; None where it is not kept, or not there.
        fault: why nothing can be signed; None where it can.
        served: whether the aggregator has a certificate.
        authority: who signs; None where nothing can be signed, and in what is kept.
        invitations: invitation id → its Secret; empty in what is kept.
    """

    fingerprint: str
    about: _About
    until: float
    looked: float = float("-inf")
    client: Client | None = None
    fault: tuple[Reason, str] | None = None
    served: bool = True
    authority: KeyPair | None = field(default=None, repr=False)
    invitations: Mapping[str, Object] = field(default_factory=dict, repr=False)


class StudySecrets:
    """Looks after the Secrets of all studies.

    Args:
        in_use: whether a study's aggregator is followed: the operator's certificate is then kept.
    """

    def __init__(self, cluster: Cluster, settings: Settings, in_use: Callable[[Key], bool]) -> None:
        self._cluster = cluster
        self._settings = settings
        self._in_use = in_use
        self._doubted: set[Key] = set()
        self._known: dict[Key, Issued] = {}

    def doubt(self, key: Key) -> None:
        """Somebody touched a Secret of the study: they are looked at in the next pass."""
        self._doubted.add(key)

    def forget(self, key: Key) -> None:
        """The study is gone."""
        self._known.pop(key, None)
        self._doubted.discard(key)

    async def known(self, key: Key, study: FederatedStudy, previous: Mapping[str, Any]) -> Issued:
        """All Secrets, all there; not looked at again for some minutes while nothing speaks against it.

        Args:
            previous: the study's status.
        """
        now, about = asyncio.get_running_loop().time(), _about(study)
        known = self._known.get(key)
        if known is None and (trusted := _certified(study, previous)):
            # a new operator: what the last one found is believed for a while, so that a thousand studies do not begin with all their Secrets
            known = self._known[key] = Issued(trusted, about, now + random.uniform(60.0, 600.0))
        wanted = known is None or key in self._doubted or now >= known.until
        if known is None or wanted or known.fault or _replacement(study) == known.fingerprint:
            return await self.look(key, study, previous)
        if known.about != about:
            return await self._changed(key, study, previous, known)
        return known

    async def _changed(
        self, key: Key, study: FederatedStudy, previous: Mapping[str, Any], known: Issued
    ) -> Issued:
        """The spec has other sites, or another endpoint: only the invitations that it concerns are looked at."""
        about = _about(study)
        if about.endpoint != known.about.endpoint:
            return await self.look(key, study, previous)
        certificates = Certificates(self._cluster, children.owner_of(study))
        try:
            authority = await certificates.authority(study.metadata.name, Trust(known.fingerprint))
        except AuthorityLostError:
            return await self.look(key, study, previous)
        await self._invitations(study, authority, about.sites ^ known.about.sites)
        self._known[key] = replace(known, about=about)
        return self._known[key]

    async def again(
        self, key: Key, study: FederatedStudy, previous: Mapping[str, Any], last: Issued
    ) -> Issued:
        """The Secrets once more, where the last look was not just now: a pod that is kept from running may lack one of them."""
        if asyncio.get_running_loop().time() < last.looked + LOOK_SECONDS:
            return last
        return await self.look(key, study, previous)

    async def client(
        self, key: Key, study: FederatedStudy, previous: Mapping[str, Any], last: Issued
    ) -> Client | None:
        """The operator's certificate for the aggregator; None where it is lost and cannot be made."""
        if last.client is not None:
            return last.client
        owner = children.owner_of(study)
        client = _client(
            await get(self._cluster, Key("Secret", owner.namespace, owner.child("operator", "tls")))
        )
        if client is None or fingerprint(client.authority) != last.fingerprint:
            client = (await self.look(key, study, previous)).client
        self._known[key] = replace(self._known[key], client=client)
        return client

    async def look(self, key: Key, study: FederatedStudy, previous: Mapping[str, Any]) -> Issued:
        """All Secrets, made and renewed where it is time to."""
        self._doubted.discard(key)  # before the first look: what is touched meanwhile is looked at once more
        trusted = str(previous.get("caFingerprint", ""))
        try:
            listed_then = {str(entry["name"]) for entry in previous.get("sites") or []}
            found = await self._issue(study, Trust(trusted, _replacement(study)), listed_then)
        except AuthorityLostError as lost:
            found = await self._without_authority(study, trusted, str(lost))
        client = found.client if self._in_use(key) else None  # keys stay in memory only where they are in use
        self._known[key] = replace(found, authority=None, invitations={}, client=client)
        return found

    async def _issue(self, study: FederatedStudy, trust: Trust, listed_then: AbstractSet[str]) -> Issued:
        owner = children.owner_of(study)
        certificates = Certificates(self._cluster, owner)
        authority = await certificates.authority(f"fedstudy {owner.name}", trust)
        served = await certificates.leaf(authority, self._server(study))
        operator = await certificates.leaf(authority, self._operator(study))
        about = _about(study)
        invitations = await self._invitations(study, authority, about.sites | listed_then)
        renewal = min(renew_at(pair.certificate_pem) for pair in (served, operator))
        now = asyncio.get_running_loop().time()
        return Issued(
            fingerprint(authority.certificate_pem),
            about,
            now + seconds_until(renewal),
            looked=now,
            client=Client(operator.certificate_pem, operator.key_pem, authority.certificate_pem),
            authority=authority,
            invitations=invitations,
        )

    async def _without_authority(self, study: FederatedStudy, trusted: str, why: str) -> Issued:
        """What is still of use: certificates that the lost authority has signed hold until they end."""
        owner = children.owner_of(study)
        server = _client(await get(self._cluster, Key("Secret", owner.namespace, self._server(study).name)))
        client = _client(await get(self._cluster, Key("Secret", owner.namespace, self._operator(study).name)))
        now = asyncio.get_running_loop().time()
        return Issued(
            trusted,
            _about(study),
            now + LOOK_SECONDS,
            looked=now,
            client=client if _of(client, trusted) else None,
            fault=(Reason.AUTHORITY_LOST, why),
            served=_of(server, trusted),
        )

    def _server(self, study: FederatedStudy) -> Leaf:
        owner, host = children.owner_of(study), study.spec.aggregator.exposure.host
        identity = Identity(self._settings.trust_domain, "study", owner.metadata.uid, Role.AGGREGATOR)
        names = [children.AGGREGATOR, *([host] if host else [])]
        name = owner.child(children.AGGREGATOR, "tls")
        return Leaf(name, children.AGGREGATOR, identity, names, server=True)

    def _operator(self, study: FederatedStudy) -> Leaf:
        owner = children.owner_of(study)
        identity = Identity(self._settings.trust_domain, "study", owner.metadata.uid, Role.OPERATOR)
        return Leaf(owner.child("operator", "tls"), "operator", identity, client=True)

    async def _invitations(
        self, study: FederatedStudy, authority: KeyPair, sites: AbstractSet[str]
    ) -> dict[str, Object]:
        """Of these sites, an invitation for each that is listed, and none for others. Returns invitation id → Secret."""
        limit = asyncio.Semaphore(_AT_ONCE)

        async def one(site: str) -> Object | None:
            async with limit:
                return await self._invitation(study, authority, site)

        found = [secret for secret in await asyncio.gather(*map(one, sorted(sites))) if secret is not None]
        return {secret["metadata"]["labels"][children.INVITATION_ID]: secret for secret in found}

    async def _invitation(self, study: FederatedStudy, authority: KeyPair, site: str) -> Object | None:
        owner = children.owner_of(study)
        # by name: an operator need not have the right to list Secrets
        key = Key("Secret", owner.namespace, children.invitation_name(owner.name, site))
        secret = await get(self._cluster, key)
        if site not in _about(study).sites:
            if secret is not None:
                await self._cluster.delete(key, uid=secret["metadata"]["uid"])
            return None
        if secret is None or _void(secret, authority):
            return await self._cluster.apply(self._invite(study, site, authority), manager=MANAGER)
        if decode(secret).get("endpoint") != children.endpoint(study):
            return await self._cluster.apply(renewed(study, secret), manager=MANAGER)
        return secret

    def _invite(self, study: FederatedStudy, site: str, authority: KeyPair) -> Object:
        invitation_id = f"{site[:50].rstrip('-')}-{secrets.token_hex(4)}"
        identity = Identity(
            self._settings.trust_domain, "study", study.metadata.uid, Role.INVITATION, invitation_id
        )
        pair = issue(
            authority, identity=identity, dns_names=(), days=INVITATION_DAYS, server=False, client=True
        )
        files = {
            "tls.crt": pair.certificate_pem,
            "tls.key": pair.key_pem,
            "ca.crt": authority.certificate_pem,
            "endpoint": children.endpoint(study),
        }
        return children.invitation(study, site, invitation_id=invitation_id, files=files)


def renewed(study: FederatedStudy, secret: Object, *, used_by: str = "") -> Object:
    """An invitation's Secret with the present endpoint, and burnt where `used_by` or it itself says so."""
    metadata = secret["metadata"]
    return children.invitation(
        study,
        metadata["labels"][SITE],
        invitation_id=metadata["labels"][children.INVITATION_ID],
        files={**decode(secret), "endpoint": children.endpoint(study)},
        used_by=used_by or (metadata.get("annotations") or {}).get(children.USED_BY, ""),
    )


def _about(study: FederatedStudy) -> _About:
    return _About(children.endpoint(study), frozenset(site.name for site in study.spec.sites))


def _certified(study: FederatedStudy, previous: Mapping[str, Any]) -> str:
    """The authority's fingerprint, where the status says that all certificates of this very spec are there; else empty."""
    for entry in previous.get("conditions") or []:
        if entry["type"] == "CertificatesReady" and entry["status"] == "True":
            same = entry.get("observedGeneration") == study.metadata.generation
            return str(previous.get("caFingerprint", "")) if same else ""
    return ""


def _replacement(study: FederatedStudy) -> str:
    """The fingerprint of the authority that a person wants to be replaced; empty where nobody does."""
    return study.metadata.annotations.get(REPLACE, "")


def _client(secret: Object | None) -> Client | None:
    """The files of a TLS Secret, where they are all there."""
    files = decode(secret) if secret else {}
    if not all(files.get(name) for name in ("tls.crt", "tls.key", "ca.crt")):
        return None
    return Client(files["tls.crt"], files["tls.key"], files["ca.crt"])


def _of(client: Client | None, trusted: str) -> bool:
    """Whether a certificate is of the authority with this fingerprint, and holds."""
    if client is None:
        return False
    try:
        same = fingerprint(client.authority) == trusted
        return same and datetime.now(UTC) < not_after(client.certificate)
    except ValueError:  # somebody spoilt it
        return False


def _void(secret: Object, authority: KeyPair, now: datetime | None = None) -> bool:
    """Whether an invitation is of no use: of another authority, or not used by anybody and at its end within a day."""
    files = decode(secret)
    if files.get("ca.crt") != authority.certificate_pem:
        return True
    used = (secret["metadata"].get("annotations") or {}).get(children.USED_BY)
    return not used and not_after(files["tls.crt"]) - (now or datetime.now(UTC)) < timedelta(days=1)


__all__ = ["Client", "Issued", "StudySecrets", "renewed"]
