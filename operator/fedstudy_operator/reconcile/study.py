"""FederatedStudy: authority and certificates, plan, invitations, aggregator; decides on enrolments; says how it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from fedstudy_operator.children.common import SITE, Settings
from fedstudy_operator.cluster import Cluster, Key, NotFoundError, Object
from fedstudy_operator.pki import KeyPair, sign_csr
from fedstudy_operator.reconcile.admin import AnyDecision, Endpoint, Peers
from fedstudy_operator.reconcile.causes import NO_POD_SECONDS, has_node, waits_for_volumes, why_none, why_not
from fedstudy_operator.reconcile.certificates import LEAF_DAYS, MANAGER
from fedstudy_operator.reconcile.passes import STATUS_MANAGER
from fedstudy_operator.reconcile.study_secrets import LOOK_SECONDS, Issued, StudySecrets, renewed
from fedstudy_operator.reconcile.study_status import Seen, invalid, status
from fedstudy_operator.reconcile.words import fault_text


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
    if pending.renews:
        return _judge_renewal(pending, invitations, listed)
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


def _judge_renewal(
    pending: PendingEnrolment, invitations: Mapping[str, Object], listed: Sequence[str]
) -> Verdict:
    """A listed site may have the next certificate for the key that its invitation was used with: the aggregator's word is not enough."""
    site = pending.renews
    if site not in listed:
        return Verdict(pending, refusal=f"Site {site} is not in the study.")
    keys = {
        (secret["metadata"].get("annotations") or {}).get(children.USED_BY, "")
        for secret in invitations.values()
        if secret["metadata"]["labels"][SITE] == site
    }
    if pending.key_fingerprint not in keys:
        return Verdict(
            pending, refusal=f"Site {site} did not enrol with this key. Ask the hub for a new invitation."
        )
    return Verdict(pending, site=site)


class StudyReconciler:
    """Brings one study to what its spec says."""

    def __init__(self, cluster: Cluster, peers: Peers, settings: Settings) -> None:
        self._cluster = cluster
        self._peers = peers
        self._settings = settings
        self._secrets = StudySecrets(cluster, settings, lambda key: peers.state(key) is not None)
        self._told: dict[tuple[Key, str], object] = {}
        """What an aggregator was told last, with the stream that it was told on."""

    async def reconcile(self, key: Key) -> float | None:
        """One pass. Returns seconds until the next, unless something changes before."""
        try:
            obj = await self._cluster.get(key)
        except NotFoundError:
            self._forget(key)
            return None
        if obj["metadata"].get("deletionTimestamp"):  # its children go with it
            self._forget(key)
            return None
        previous = obj.get("status") or {}
        try:
            study = FederatedStudy.model_validate({**obj, "status": {}})
            plan = children.Document.of(study.plan())
        except ValidationError as error:
            await self._write(key, invalid(obj, fault_text(error)))
            return None
        seen = Seen(plan_digest=plan.digest(), endpoint=children.endpoint(study))
        if not previous.get("conditions"):
            await self._write(key, status(study, previous, seen))
        issued = await self._secrets.known(key, study, previous)
        workload = await self._apply(study, plan)
        ready = (workload.get("status") or {}).get("readyReplicas", 0) > 0
        pod = await self._pod(study)
        if not ready and pod is not None and has_node(pod):
            issued = await self._secrets.again(key, study, previous, issued)
        state = await self._follow(key, study, previous, issued, ready=ready)
        if state is not None and state.pending and issued.authority is None and issued.fault is None:
            issued = await self._secrets.look(key, study, previous)
        connected = self._peers.epoch(key) > 0
        cause, waits = (
            ((Reason.AVAILABLE, ""), None) if ready and connected else await self._cause(key, pod, workload)
        )
        seen = replace(
            seen,
            ca_fingerprint=issued.fingerprint,
            certificates=issued.served,
            fault=issued.fault,
            ready=ready,
            cause=cause,
            state=state,
            connected=connected,
        )
        await self._write(key, status(study, previous, seen))
        if state is not None and connected:
            await self._decide(key, study, state, issued)
        again = max(1.0, issued.until - asyncio.get_running_loop().time())
        return again if waits is None else min(again, waits)

    def doubt(self, key: Key) -> None:
        """Somebody touched a Secret of the study: it is looked at in the next pass."""
        self._secrets.doubt(key)

    async def _apply(self, study: FederatedStudy, plan: children.PlanText) -> Object:
        """All children but the Secrets; returns the aggregator's StatefulSet."""
        for manifest in (
            children.configuration(study, plan, self._settings),
            children.service(study),
            children.network_policy(study, self._settings),
            children.disruption_budget(study),
        ):
            await self._cluster.apply(manifest, manager=MANAGER)
        return await self._cluster.apply(children.aggregator(study, plan, self._settings), manager=MANAGER)

    async def _pod(self, study: FederatedStudy) -> Object | None:
        """The aggregator's pod."""
        owner = children.owner_of(study)
        pods = await self._cluster.list("Pod", owner.namespace, owner.selector(children.AGGREGATOR))
        return pods[0] if pods else None

    async def _follow(
        self, key: Key, study: FederatedStudy, previous: Mapping[str, Any], issued: Issued, *, ready: bool
    ) -> AggregatorState | None:
        """Keep the stream to the aggregator; returns what it said last. Nobody is dialled before it can answer."""
        if ready or self._peers.state(key) is not None:
            client = await self._secrets.client(key, study, previous, issued)
            if client is not None:
                address = children.service_address(study.metadata.name, study.metadata.namespace)
                endpoint = Endpoint(
                    address, children.AGGREGATOR, client.certificate, client.key, client.authority
                )
                self._peers.follow(key, endpoint)
        state = self._peers.state(key)
        return state if isinstance(state, AggregatorState) else None

    async def _cause(
        self, key: Key, pod: Object | None, workload: Object
    ) -> tuple[tuple[Reason, str], float | None]:
        """Why the aggregator does not answer, and when to look again where no event will tell."""
        if pod is not None:
            reason, message = why_not(pod)
            look = LOOK_SECONDS if waits_for_volumes(pod) else None
            return (reason, message or self._peers.problem(key)), look
        seen = "observedGeneration" in (workload.get("status") or {})  # its controller has been here
        return why_none(await self._cluster.warnings(workload) if seen else ()), NO_POD_SECONDS

    async def _decide(
        self,
        key: Key,
        study: FederatedStudy,
        state: AggregatorState,
        issued: Issued,
    ) -> None:
        """Tell the aggregator what it needs to know. Where nothing can be signed, requests stay open."""
        listed = sorted(site.name for site in study.spec.sites)
        required = sorted(site.name for site in study.spec.sites if site.required)
        if state.phase not in (Phase.COMPLETE, Phase.FAILED):
            await self._tell(key, "sites", SetSites(sites=listed, required=required))
            await self._tell(key, "suspend", Suspend(suspend=study.spec.suspend))
        if issued.authority is None:
            return
        for pending in state.pending:
            verdict = judge(pending, issued.invitations, listed)
            answer = await self._answer(study, verdict, issued.authority, issued.invitations)
            await self._peers.decide(key, answer)

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
                if not pending.renews:
                    secret = invitations[pending.invitation]
                    burnt = renewed(study, secret, used_by=pending.key_fingerprint)
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

    def _forget(self, key: Key) -> None:
        self._peers.forget(key)
        self._secrets.forget(key)
        self._told = {known: said for known, said in self._told.items() if known[0] != key}

    async def _write(self, key: Key, value: Object) -> None:
        await self._cluster.patch_status(key, value, manager=STATUS_MANAGER)


__all__ = ["StudyReconciler", "Verdict", "judge"]
