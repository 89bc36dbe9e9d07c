"""SiteParticipant: the hospital's agent and its certificates, the plan on show, the preflight, and the trainer while there is work."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from fedstudy.identity import Identity, Role
from fedstudy.plan import StudyPlan
from fedstudy.wire.admin import AgentState, Approval, Configure
from fedstudy_operator.api.conditions import Reason, condition, merge
from fedstudy_operator.api.dataset import SiteDataset
from fedstudy_operator.api.participant import ApprovalSpec, Release, SiteParticipant
from fedstudy_operator.children import participant as children
from fedstudy_operator.children import study as study_children
from fedstudy_operator.children import trainer as jobs
from fedstudy_operator.children.common import (
    Settings,
    decode,
)
from fedstudy_operator.cluster import Cluster, Key, NotFoundError, Object
from fedstudy_operator.pki import KeyPair
from fedstudy_operator.reconcile.admin import Endpoint, Peers
from fedstudy_operator.reconcile.causes import job_end, latest, why_not
from fedstudy_operator.reconcile.certificates import MANAGER, Certificates, Leaf, get, renew_at, seconds_until
from fedstudy_operator.reconcile.participant_status import JobSeen, Seen, data_available, status
from fedstudy_operator.reconcile.words import fault_text

STATUS_MANAGER = "fedstudy-operator-status"
SETTLE_SECONDS = 2.0
"""How long after a trainer's end its agent may still show the work that it did."""
IDLE_SECONDS = 30.0
"""How long a trainer that has nothing to do may take to end by itself (release BetweenRounds)."""
_MOST_ATTEMPTS = 5


@dataclass(frozen=True)
class Hub:
    """Where the study is, and what it sent us.

    Attributes:
        invitation: the files of the invitation to bring over; None where there is none, or where it is in our namespace already.
    """

    address: str
    server_name: str
    invited: bool
    invitation: Mapping[str, str] | None = None
    missing: tuple[Reason, str] | None = None


@dataclass(frozen=True)
class JobPlan:
    """What is to be done about trainer Jobs now.

    Attributes:
        make: attempt number of the Job to make; None: make none.
        again: seconds after which to look again.
    """

    make: int | None = None
    delete: tuple[Object, ...] = ()
    again: float | None = None


def may_train(participant: SiteParticipant, state: AgentState, fits: bool) -> bool:
    """Whether a pod may see the data in order to train: approved, within policy, data fit, not suspended, not over. Pure."""
    return (
        state.approved
        and not state.violations
        and fits
        and not participant.spec.suspend
        and not state.finished
    )


def plan_jobs(
    present: Sequence[Object],
    *,
    allowed: bool,
    work: str,
    made_of: str,
    release: Release,
    idle: float,
    settled: bool,
) -> JobPlan:
    """Which trainer Jobs to make and to delete. Pure.

    Args:
        present: all trainer Jobs of the participant.
        allowed: `may_train`.
        work: id of the instruction that waits; empty: none.
        made_of: hash of what a Job is made from now.
        idle: seconds since there was work.
        settled: whether a Job that has just ended for this very work has had time to be believed.
    """
    if not allowed:
        return JobPlan(delete=tuple(present))
    active = [job for job in present if not job_end(job)]
    if not work:
        overdue = release is Release.BETWEEN_ROUNDS and active and idle >= IDLE_SECONDS
        waits = release is Release.BETWEEN_ROUNDS and active and not overdue
        return JobPlan(delete=tuple(active) if overdue else (), again=IDLE_SECONDS if waits else None)
    if active:
        return JobPlan()
    mark = jobs.short_hash(work)
    mine = [job for job in present if job["metadata"]["labels"].get(jobs.WORK) == mark]
    others = tuple(job for job in present if job not in mine)
    failed = [
        job
        for job in mine
        if job_end(job) == "Failed" and job["metadata"]["labels"].get(jobs.SPEC) == made_of
    ]
    if failed or len(mine) >= _MOST_ATTEMPTS:
        return JobPlan(delete=others)
    if mine and not settled:
        return JobPlan(delete=others, again=SETTLE_SECONDS)
    return JobPlan(make=len(mine), delete=others)


def approval_of(spec: ApprovalSpec | None) -> Approval:
    """The steward's word in the form that the agent takes."""
    if spec is None:
        return Approval()
    if spec.mode is not None:
        return Approval(mode="Automatic", not_after=spec.not_after or "")
    return Approval(mode="Digest", plan_digest=spec.plan_digest or "", not_after=spec.not_after or "")


class ParticipantReconciler:
    """Brings one participant to what its spec says."""

    def __init__(self, cluster: Cluster, peers: Peers, settings: Settings) -> None:
        self._cluster = cluster
        self._peers = peers
        self._settings = settings
        self._told: dict[Key, object] = {}
        self._idle_since: dict[Key, float] = {}
        self._ended: dict[str, float] = {}
        """Job's uid → when its end was first seen. Only a clock: a new operator waits a little longer, no more."""

    async def reconcile(self, key: Key) -> float | None:
        """One pass. Returns seconds until the next, unless something changes before."""
        try:
            obj = await self._cluster.get(key)
        except NotFoundError:
            self._forget(key)
            return None
        try:
            participant = SiteParticipant.model_validate(obj)
        except ValidationError as error:
            await self._write(key, _invalid(obj, fault_text(error)))
            return None
        previous = obj.get("status") or {}
        if not previous:
            await self._write(key, status(participant, previous, Seen(invited=True)))
        hub = await self._hub(participant)
        dataset = await self._dataset(participant)
        missing = (
            hub.missing
            if dataset is not None
            else (
                Reason.DATASET_NOT_FOUND,
                f"there is no valid SiteDataset {participant.spec.dataset_ref} in this namespace",
            )
        )
        again = 600.0
        seen = Seen(missing=missing, invited=hub.invited)
        if hub.invited:
            again = await self._agent(key, participant, hub)
            seen = await self._look(key, participant, hub, missing)
        await self._write(key, status(participant, previous, seen))
        if not hub.invited or dataset is None:
            await self._delete_jobs(participant)
            return again
        later = await self._work(key, participant, dataset, seen)
        return min(again, later) if later is not None else again

    # What is there

    async def _hub(self, participant: SiteParticipant) -> Hub:
        """Where the study is, and whether it has invited us."""
        ref, namespace = participant.spec.study, participant.metadata.namespace
        if ref.hub is not None:
            secret = await get(self._cluster, Key("Secret", namespace, ref.hub.invitation.secret_name))
            return Hub(ref.hub.endpoint, ref.hub.server_name, secret is not None)
        hub_namespace = ref.namespace or namespace
        address = study_children.service_address(ref.name, hub_namespace)
        study = await get(self._cluster, Key("FederatedStudy", hub_namespace, ref.name))
        name = study_children.invitation_name(ref.name, participant.spec.site_name)
        sent = await get(self._cluster, Key("Secret", hub_namespace, name)) if study else None
        kept = await get(self._cluster, Key("Secret", namespace, children.invitation_secret(participant)))
        missing = (
            None
            if study
            else (Reason.STUDY_NOT_FOUND, f"no FederatedStudy {ref.name} in namespace {hub_namespace}")
        )
        return Hub(
            address,
            study_children.AGGREGATOR,
            invited=sent is not None or kept is not None,
            invitation=decode(sent) if sent else None,
            missing=missing,
        )

    async def _dataset(self, participant: SiteParticipant) -> SiteDataset | None:
        key = Key("SiteDataset", participant.metadata.namespace, participant.spec.dataset_ref)
        obj = await get(self._cluster, key)
        try:
            return SiteDataset.model_validate(obj) if obj else None
        except ValidationError:
            return None  # its own status says what is wrong

    async def _look(
        self, key: Key, participant: SiteParticipant, hub: Hub, missing: tuple[Reason, str] | None
    ) -> Seen:
        owner = children.owner_of(participant)
        state = self._peers.state(key)
        pods = await self._cluster.list("Pod", owner.namespace, owner.selector(children.AGENT))
        workload = await get(self._cluster, Key("StatefulSet", owner.namespace, owner.child(children.AGENT)))
        reason, message = (
            why_not(pods[0]) if pods else (Reason.POD_PENDING, "the agent's pod is not there yet")
        )
        agent_state = state if isinstance(state, AgentState) else None
        if agent_state is not None and agent_state.plan:
            plan = children.offered_plan(participant, agent_state.plan)
            await self._cluster.apply(plan, manager=MANAGER)
        return Seen(
            missing=missing,
            invited=hub.invited,
            agent_ready=((workload or {}).get("status") or {}).get("readyReplicas", 0) > 0,
            cause=(reason, message or self._peers.problem(key)),
            state=agent_state,
            connected=self._peers.epoch(key) > 0,
            plan_config_map=owner.child("plan") if agent_state and agent_state.plan else "",
            preflight=await self._job_seen(participant, children.PREFLIGHT),
            trainer=await self._job_seen(participant, children.TRAINER),
        )

    async def _jobs(self, participant: SiteParticipant, component: str) -> list[Object]:
        owner = children.owner_of(participant)
        return await self._cluster.list("Job", owner.namespace, owner.selector(component))

    async def _job_seen(self, participant: SiteParticipant, component: str) -> JobSeen:
        """The Job under way, else the latest."""
        found = await self._jobs(participant, component)
        job = latest([job for job in found if not job_end(job)] or found)
        if job is None:
            return JobSeen()
        owner = children.owner_of(participant)
        pods = [
            pod
            for pod in await self._cluster.list("Pod", owner.namespace, owner.selector(component))
            if any(o["uid"] == job["metadata"]["uid"] for o in pod["metadata"].get("ownerReferences") or [])
        ]
        return JobSeen(job, latest(pods))

    # What is wanted

    async def _agent(self, key: Key, participant: SiteParticipant, hub: Hub) -> float:
        """The agent with all that it needs, and a stream to it. Returns when to look at the certificates again."""
        owner, domain, uid = (
            children.owner_of(participant),
            self._settings.trust_domain,
            participant.metadata.uid,
        )
        certificates = Certificates(self._cluster, owner)
        authority = await certificates.authority(f"fedstudy {owner.name}")

        def leaf(component: str, role: Role, **usage: Any) -> Leaf:
            identity = Identity(domain, "participant", uid, role)
            return Leaf(owner.child(component, "tls"), component, identity, **usage)

        served = await certificates.leaf(
            authority, leaf(children.AGENT, Role.AGENT, dns_names=(children.AGENT,), server=True)
        )
        trained = await certificates.leaf(authority, leaf(children.TRAINER, Role.TRAINER, client=True))
        operator = await certificates.leaf(authority, leaf("operator", Role.OPERATOR, client=True))
        if hub.invitation is not None:
            copy = children.invitation_copy(participant, hub.invitation)
            await self._cluster.apply(copy, manager=MANAGER)
        for manifest in (
            children.service(participant),
            children.agent_network_policy(participant, hub.address),
            children.trainer_network_policy(participant, children.TRAINER),
            children.trainer_network_policy(participant, children.PREFLIGHT),
            children.agent(participant, hub.address, hub.server_name, self._settings),
        ):
            await self._cluster.apply(manifest, manager=MANAGER)
        self._peers.follow(key, _endpoint(participant, operator, authority))
        return seconds_until(min(renew_at(pair.certificate_pem) for pair in (served, trained, operator)))

    async def _work(
        self, key: Key, participant: SiteParticipant, dataset: SiteDataset, seen: Seen
    ) -> float | None:
        """Tell the agent what is allowed; check the data; train where there is work."""
        state = seen.state
        if state is None or not seen.connected:
            return None
        await self._configure(key, participant, dataset)
        if not state.plan_digest:
            return None
        await self._cluster.apply(children.dataset_configuration(participant, dataset), manager=MANAGER)
        image = self._image(participant, state)
        await self._preflight(participant, dataset, state, image)
        fits = data_available(seen).status == "True"
        made_of = jobs.spec_hash(participant, dataset, image)
        present = await self._jobs(participant, children.TRAINER)
        step = plan_jobs(
            present,
            allowed=may_train(participant, state, fits),
            work=state.work,
            made_of=made_of,
            release=participant.spec.trainer.release,
            idle=self._idle(key, state.work),
            settled=self._settled(present),
        )
        for job in step.delete:
            await self._delete(job)
        if step.make is not None:
            made = jobs.trainer(
                participant,
                dataset,
                work=state.work,
                attempt=step.make,
                image=image,
                settings=self._settings,
            )
            await self._cluster.apply(made, manager=MANAGER)
        return step.again

    async def _configure(self, key: Key, participant: SiteParticipant, dataset: SiteDataset) -> None:
        others = await self._cluster.list("SiteParticipant", key.namespace)
        using = [p for p in others if _uses(p, participant.spec.dataset_ref)]
        decision = Configure(
            policy=dataset.spec.policy,
            approval=approval_of(participant.spec.approval),
            suspend=participant.spec.suspend,
            studies_using_dataset=max(1, len(using)),
        )
        said = (self._peers.epoch(key), decision)
        if self._told.get(key) != said:
            await self._peers.decide(key, decision)
            self._told[key] = said

    async def _preflight(
        self, participant: SiteParticipant, dataset: SiteDataset, state: AgentState, image: str
    ) -> None:
        """One preflight for each plan and form of the dataset; those of others go."""
        wanted = jobs.preflight(
            participant, dataset, digest=state.plan_digest, image=image, settings=self._settings
        )
        present = await self._jobs(participant, children.PREFLIGHT)
        names = [job["metadata"]["name"] for job in present]
        for job in present:
            if job["metadata"]["name"] != wanted["metadata"]["name"]:
                await self._delete(job)
        if wanted["metadata"]["name"] not in names and not participant.spec.suspend and not state.finished:
            await self._cluster.apply(wanted, manager=MANAGER)

    def _image(self, participant: SiteParticipant, state: AgentState) -> str:
        plan = StudyPlan.parse(state.plan.encode()) if state.plan else None
        return (
            participant.spec.trainer.image
            or (plan.trainer_image if plan else "")
            or self._settings.trainer_image
        )

    def _idle(self, key: Key, work: str) -> float:
        """Seconds since there was work."""
        now = asyncio.get_running_loop().time()
        if work:
            self._idle_since.pop(key, None)
            return 0.0
        return now - self._idle_since.setdefault(key, now)

    def _settled(self, present: Sequence[Object]) -> bool:
        now = asyncio.get_running_loop().time()
        ended = [job["metadata"]["uid"] for job in present if job_end(job)]
        return all(now - self._ended.setdefault(uid, now) >= SETTLE_SECONDS for uid in ended)

    async def _delete_jobs(self, participant: SiteParticipant) -> None:
        for job in await self._jobs(participant, children.TRAINER):
            await self._delete(job)

    async def _delete(self, job: Object) -> None:
        metadata = job["metadata"]
        self._ended.pop(metadata["uid"], None)
        key = Key("Job", metadata["namespace"], metadata["name"])
        await self._cluster.delete(key, uid=metadata["uid"])

    def _forget(self, key: Key) -> None:
        self._peers.forget(key)
        self._told.pop(key, None)
        self._idle_since.pop(key, None)

    async def _write(self, key: Key, value: Object) -> None:
        await self._cluster.patch_status(key, value, manager=STATUS_MANAGER)


def _endpoint(participant: SiteParticipant, operator: KeyPair, authority: KeyPair) -> Endpoint:
    address = children.agent_address(participant)
    return Endpoint(
        address, children.AGENT, operator.certificate_pem, operator.key_pem, authority.certificate_pem
    )


def _uses(participant: Mapping[str, Any], dataset: str) -> bool:
    """Whether a participant uses a dataset now."""
    conditions = (participant.get("status") or {}).get("conditions") or []
    over = any(c["type"] == "Complete" and c["status"] == "True" for c in conditions)
    return participant.get("spec", {}).get("datasetRef") == dataset and not over


def _invalid(obj: Object, message: str) -> Object:
    generation = int(obj["metadata"].get("generation", 1))
    before = (obj.get("status") or {}).get("conditions") or []
    wanted = [
        condition(kind, kind == "Stalled", Reason.INVALID_SPEC, message) for kind in ("Ready", "Stalled")
    ]
    return {
        "observedGeneration": generation,
        "conditions": merge(before, wanted, generation=generation),
        "summary": "Invalid",
    }


__all__ = ["ParticipantReconciler", "approval_of", "may_train", "plan_jobs"]
