"""FederatedStudy: authority and certificates, plan, invitations, aggregator; decides on enrolments; says how it goes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from fedstudy.errors import RefusedError
from fedstudy.identity import Identity, Role
from fedstudy.wire.admin import (
    AcceptEnrolment,
    AggregatorState,
    PendingEnrolment,
    Phase,
    RefuseEnrolment,
    SetSites,
    Suspend,
)
from fedstudy_operator.api.conditions import Reason
from fedstudy_operator.api.study import FederatedStudy
from fedstudy_operator.children import study as children
from fedstudy_operator.children.common import COMPONENT, SITE, STUDY, Settings, decode, label_value
from fedstudy_operator.cluster import Cluster, Key, NotFoundError, Object
from fedstudy_operator.pki import KeyPair, issue, sign_csr
from fedstudy_operator.reconcile.admin import AnyDecision, Endpoint, Peers
from fedstudy_operator.reconcile.causes import why_not
from fedstudy_operator.reconcile.certificates import (
    INVITATION_DAYS,
    LEAF_DAYS,
    MANAGER,
    Certificates,
    Leaf,
    fingerprint,
    not_after,
    renew_at,
    seconds_until,
)
from fedstudy_operator.reconcile.study_status import Seen, invalid, status
from fedstudy_operator.reconcile.words import fault_text

STATUS_MANAGER = "fedstudy-operator-status"


@dataclass(frozen=True)
class Verdict:
    """What is to be done with a request for a certificate: sign it for a site, or refuse it for a reason."""

    pending: PendingEnrolment
    site: str = ""
    refusal: str = ""


def judge(pending: PendingEnrolment, invitations: Mapping[str, Object], listed: Sequence[str]) -> Verdict:
    """Whether to sign. The invitation must be of a listed site, and not used by another key. Pure.

    Args:
        invitations: invitation id → its Secret.
        listed: the sites of the study.
    """
    secret = invitations.get(pending.invitation)
    if secret is None:
        return Verdict(pending, refusal="The invitation is not one of this study's, or was withdrawn.")
    site = secret["metadata"]["labels"][SITE]
    used = (secret["metadata"].get("annotations") or {}).get(children.USED_BY, "")
    if site not in listed:
        return Verdict(pending, refusal=f"Site {site} is not in the study.")
    if used and used != pending.key_fingerprint:
        return Verdict(
            pending, refusal="The invitation was used already, with another key. Ask the hub for a new one."
        )
    return Verdict(pending, site=site)


class StudyReconciler:
    """Brings one study to what its spec says."""

    def __init__(self, cluster: Cluster, peers: Peers, settings: Settings) -> None:
        self._cluster = cluster
        self._peers = peers
        self._settings = settings
        self._told: dict[tuple[Key, str], object] = {}
        """What an aggregator was told last, with the stream that it was told on."""

    async def reconcile(self, key: Key) -> float | None:
        """One pass. Returns seconds until the next, unless something changes before."""
        try:
            obj = await self._cluster.get(key)
        except NotFoundError:
            self._peers.forget(key)
            return None
        try:
            study = FederatedStudy.model_validate(obj)
            plan = study.plan()
        except ValidationError as error:
            await self._write(key, invalid(obj, fault_text(error)))
            return None
        previous = obj.get("status") or {}
        seen = Seen(plan_digest=plan.digest(), endpoint=children.endpoint(study))
        if not previous:
            await self._write(key, status(study, previous, seen))
        authority, operator, again = await self._certificates(study)
        invitations = await self._invitations(study, authority)
        for manifest in (
            children.configuration(study, plan, self._settings),
            children.service(study),
            children.network_policy(study),
            children.disruption_budget(study),
        ):
            await self._cluster.apply(manifest, manager=MANAGER)
        workload = await self._cluster.apply(
            children.aggregator(study, plan, self._settings), manager=MANAGER
        )
        self._peers.follow(key, self._endpoint(study, operator, authority))
        state = self._peers.state(key)
        state = state if isinstance(state, AggregatorState) else None
        connected = self._peers.epoch(key) > 0
        seen = Seen(
            plan_digest=plan.digest(),
            endpoint=children.endpoint(study),
            ca_fingerprint=fingerprint(authority.certificate_pem),
            certificates=True,
            ready=(workload.get("status") or {}).get("readyReplicas", 0) > 0,
            cause=await self._cause(study, key),
            state=state,
            connected=connected,
        )
        await self._write(key, status(study, previous, seen))
        if state is not None and connected:
            await self._decide(key, study, state, authority, invitations)
        return again

    async def _certificates(self, study: FederatedStudy) -> tuple[KeyPair, KeyPair, float]:
        """The authority, the operator's client certificate, and when to look again."""
        owner, uid = children.owner_of(study), study.metadata.uid
        certificates = Certificates(self._cluster, owner)
        authority = await certificates.authority(f"fedstudy {study.metadata.name}")
        domain = self._settings.trust_domain
        host = study.spec.aggregator.exposure.host
        names = [children.AGGREGATOR, *([host] if host else [])]
        server = Leaf(
            owner.child(children.AGGREGATOR, "tls"),
            children.AGGREGATOR,
            Identity(domain, "study", uid, Role.AGGREGATOR),
            names,
            server=True,
        )
        client = Leaf(
            owner.child("operator", "tls"),
            "operator",
            Identity(domain, "study", uid, Role.OPERATOR),
            client=True,
        )
        served = await certificates.leaf(authority, server)
        operator = await certificates.leaf(authority, client)
        renewal = min(renew_at(pair.certificate_pem) for pair in (served, operator))
        return authority, operator, seconds_until(renewal)

    async def _invitations(self, study: FederatedStudy, authority: KeyPair) -> dict[str, Object]:
        """An invitation for each listed site, and none for others. Returns invitation id → Secret."""
        owner = children.owner_of(study)
        labels = {STUDY: label_value(owner.name), COMPONENT: children.INVITATION}
        present = {
            secret["metadata"]["labels"][SITE]: secret
            for secret in await self._cluster.list("Secret", owner.namespace, labels)
        }
        listed = [site.name for site in study.spec.sites]
        for site in sorted(set(present) - set(listed)):
            metadata = present.pop(site)["metadata"]
            await self._cluster.delete(Key("Secret", owner.namespace, metadata["name"]), uid=metadata["uid"])
        for site in listed:
            secret = present.get(site)
            if secret is None or _lapsed(secret):
                secret = await self._cluster.apply(self._invite(study, site, authority), manager=MANAGER)
            elif decode(secret).get("endpoint") != children.endpoint(study):
                secret = await self._cluster.apply(_renewed(study, secret), manager=MANAGER)
            present[site] = secret
        return {s["metadata"]["labels"][children.INVITATION_ID]: s for s in present.values()}

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

    def _endpoint(self, study: FederatedStudy, operator: KeyPair, authority: KeyPair) -> Endpoint:
        address = children.service_address(study.metadata.name, study.metadata.namespace)
        return Endpoint(
            address,
            children.AGGREGATOR,
            operator.certificate_pem,
            operator.key_pem,
            authority.certificate_pem,
        )

    async def _cause(self, study: FederatedStudy, key: Key) -> tuple[Reason, str]:
        owner = children.owner_of(study)
        pods = await self._cluster.list("Pod", owner.namespace, owner.selector(children.AGGREGATOR))
        if not pods:
            return Reason.POD_PENDING, "the pod is not there yet"
        reason, message = why_not(pods[0])
        return reason, message or self._peers.problem(key)

    async def _decide(
        self,
        key: Key,
        study: FederatedStudy,
        state: AggregatorState,
        authority: KeyPair,
        invitations: Mapping[str, Object],
    ) -> None:
        """Tell the aggregator what it needs to know."""
        listed = sorted(site.name for site in study.spec.sites)
        required = sorted(site.name for site in study.spec.sites if site.required)
        if state.phase not in (Phase.COMPLETE, Phase.FAILED):
            await self._tell(key, "sites", SetSites(sites=listed, required=required))
            await self._tell(key, "suspend", Suspend(suspend=study.spec.suspend))
        for pending in state.pending:
            verdict = judge(pending, invitations, listed)
            await self._peers.decide(key, await self._answer(study, verdict, authority, invitations))

    async def _tell(self, key: Key, what: str, decision: AnyDecision) -> None:
        """Once for each stream and content: it is idempotent, but need not be said at every pass."""
        said = (self._peers.epoch(key), decision)
        if self._told.get((key, what)) != said:
            await self._peers.decide(key, decision)
            self._told[(key, what)] = said

    async def _answer(
        self,
        study: FederatedStudy,
        verdict: Verdict,
        authority: KeyPair,
        invitations: Mapping[str, Object],
    ) -> AnyDecision:
        """The decision on a request; the invitation is burnt, durably, before the certificate leaves."""
        pending = verdict.pending
        refusal = verdict.refusal
        if not refusal:
            identity = Identity(
                self._settings.trust_domain, "study", study.metadata.uid, Role.SITE, verdict.site
            )
            try:
                certificate = sign_csr(authority, pending.csr_pem, identity=identity, days=LEAF_DAYS)
            except RefusedError as error:
                refusal = error.message
            else:
                secret = invitations[pending.invitation]
                burnt = _renewed(study, secret, used_by=pending.key_fingerprint)
                await self._cluster.apply(burnt, manager=MANAGER)
                return AcceptEnrolment(
                    invitation=pending.invitation,
                    key_fingerprint=pending.key_fingerprint,
                    site=verdict.site,
                    certificate_pem=certificate,
                    authority_pem=authority.certificate_pem,
                )
        return RefuseEnrolment(
            invitation=pending.invitation, key_fingerprint=pending.key_fingerprint, reason=refusal
        )

    async def _write(self, key: Key, value: Object) -> None:
        await self._cluster.patch_status(key, value, manager=STATUS_MANAGER)


def _renewed(study: FederatedStudy, secret: Object, *, used_by: str = "") -> Object:
    """An invitation's Secret with the present endpoint, and burnt where `used_by` or it itself says so."""
    metadata = secret["metadata"]
    return children.invitation(
        study,
        metadata["labels"][SITE],
        invitation_id=metadata["labels"][children.INVITATION_ID],
        files={**decode(secret), "endpoint": children.endpoint(study)},
        used_by=used_by or (metadata.get("annotations") or {}).get(children.USED_BY, ""),
    )


def _lapsed(secret: Object, now: datetime | None = None) -> bool:
    """Whether an invitation that nobody has used ends within a day."""
    used = (secret["metadata"].get("annotations") or {}).get(children.USED_BY)
    end = not_after(decode(secret)["tls.crt"])
    return not used and end - (now or datetime.now(UTC)) < timedelta(days=1)


__all__ = ["StudyReconciler", "Verdict", "judge"]
