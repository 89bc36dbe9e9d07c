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
from fedstudy_operator.api.meta import GROUP
from fedstudy_operator.api.participant import ApprovalSpec, Release, SiteParticipant
from fedstudy_operator.children import participant as children
from fedstudy_operator.children import study as study_children
from fedstudy_operator.children import trainer as jobs
from fedstudy_operator.children.common import (
    Settings,
    decode,
)
from fedstudy_operator.cluster import Cluster, ForbiddenError, Key, NotFoundError, Object
from fedstudy_operator.pki import KeyPair
from fedstudy_operator.reconcile.admin import Endpoint, Peers
from fedstudy_operator.reconcile.causes import (
    NO_POD_SECONDS,
    ended_for,
    held_back,
    job_end,
    latest,
    why_none,
    why_not,
)
from fedstudy_operator.reconcile.certificates import MANAGER, Certificates, Leaf, get, renew_at, seconds_until
from fedstudy_operator.reconcile.participant_status import JobSeen, Seen, data_available, silent_in, status
from fedstudy_operator.reconcile.passes import STATUS_MANAGER
from fedstudy_operator.reconcile.words import fault_text

SETTLE_SECONDS = 2.0
"""How long after a trainer's end its agent may still show the work that it did."""
IDLE_SECONDS = 30.0
"""How long a trainer that has nothing to do may take to end by itself (release BetweenRounds)."""
UNINVITED_SECONDS = 10.0
"""How often to look for a study and an invitation: a hospital's operator may read them, but is not told of them."""
_FIRST_RECHECK, _LONGEST_RECHECK = 60.0, 600.0
ATTEMPT = f"{GROUP}/attempt"
"""Annotation of a preflight Job, and of a trainer in the place of a silent one: how many went before it."""
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
    silent: bool = False,
) -> JobPlan:
    """Which trainer Jobs to make and to delete. Pure.

    Args:
        present: all trainer Jobs of the participant.
        allowed: `may_train`.
        work: id of the instruction that waits; empty: none.
        made_of: hash of what a Job is made from now.
        idle: seconds since there was work.
        settled: whether a Job that has just ended for this very work has had time to be believed.
        silent: whether the trainer that runs shows no sign of life.
    """
    if not allowed:
        return JobPlan(delete=tuple(present))
    active = [job for job in present if not job_end(job)]
    if not work:
        overdue = release is Release.BETWEEN_ROUNDS and active and idle >= IDLE_SECONDS
        waits = release is Release.BETWEEN_ROUNDS and active and not overdue
        return JobPlan(delete=tuple(active) if overdue else (), again=IDLE_SECONDS if waits else None)
    mark = jobs.short_hash(work)
    mine = [job for job in present if job["metadata"]["labels"].get(jobs.WORK) == mark]
    if active:
        next_one = max([len(mine), *(_attempt(job) + 1 for job in mine)])
        replaced = silent and next_one < _MOST_ATTEMPTS
        return JobPlan(make=next_one, delete=tuple(active)) if replaced else JobPlan()
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


def recheck_seconds(attempt: int) -> float:
    """How long after a preflight that found faults the data are looked at again: longer with each attempt."""
    return min(_LONGEST_RECHECK, _FIRST_RECHECK * 2.0 ** min(attempt, 10))


def _attempt(job: Object) -> int:
    text = (job["metadata"].get("annotations") or {}).get(ATTEMPT, "0")
    return int(text) if text.isdigit() else 0


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
        if obj["metadata"].get("deletionTimestamp"):  # its children go with it
            self._forget(key)
            return None
        try:
            participant = SiteParticipant.model_validate(obj)
        except ValidationError as error:
            await self._write(key, _invalid(obj, fault_text(error)))
            return None
        previous = obj.get("status") or {}
        if not previous.get("conditions"):
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
        again = UNINVITED_SECONDS
        seen = Seen(missing=missing, invited=hub.invited)
        if hub.invited:
            again = await self._agent(key, participant, hub)
            seen = await self._look(key, participant, hub, missing)
            again = NO_POD_SECONDS if _podless(seen) else again
        await self._write(key, status(participant, previous, seen))
        if not hub.invited or hub.missing is not None or dataset is None:
            # also where the study was deleted: nobody waits for the answer
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
        try:
            study = await get(self._cluster, Key("FederatedStudy", hub_namespace, ref.name))
        except ForbiddenError:
            text = f"the operator may not read namespace {hub_namespace}: name it in hubNamespaces of the site chart"
            return Hub(
                address, study_children.AGGREGATOR, invited=False, missing=(Reason.STUDY_NOT_FOUND, text)
            )
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
            invitation=decode(sent) if sent and (not kept or decode(kept) != decode(sent)) else None,
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
        if pods:
            reason, message = why_not(pods[0])
        else:
            reason, message = why_none(await self._cluster.warnings(workload) if workload else ())
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
            agent_pod=bool(pods),
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
        silent = pods or job_end(job) or held_back(job)
        warnings = () if silent else await self._cluster.warnings(job)
        return JobSeen(job, latest(pods), tuple(warnings))

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
            children.agent_network_policy(participant, hub.address, self._settings),
            children.trainer_network_policy(participant, children.TRAINER),
            children.trainer_network_policy(participant, children.PREFLIGHT),
        ):
            await self._cluster.apply(manifest, manager=MANAGER)
        workload = await self._cluster.apply(
            children.agent(participant, hub.address, hub.server_name, self._settings), manager=MANAGER
        )
        ready = (workload.get("status") or {}).get("readyReplicas", 0) > 0
        if ready or self._peers.state(key) is not None:  # nobody is dialled before it can answer
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
        fits = data_available(seen).status == "True"
        await self._preflight(participant, dataset, state, image, fits=fits)
        made_of = jobs.spec_hash(participant, dataset, self._settings.place(image))
        present = await self._jobs(participant, children.TRAINER)
        silent = silent_in(seen)
        step = plan_jobs(
            present,
            allowed=may_train(participant, state, fits),
            work=state.work,
            made_of=made_of,
            release=participant.spec.trainer.release,
            idle=self._idle(key, state.work),
            settled=self._settled(present),
            silent=silent == 0.0,
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
            if silent == 0.0:
                why = {ATTEMPT: str(step.make), jobs.REPLACES: state.trainer_last_seen}
                made["metadata"]["annotations"] = {**(made["metadata"].get("annotations") or {}), **why}
            await self._cluster.make(made, manager=MANAGER)
        again = None if fits or not self._settings.rechecks else _FIRST_RECHECK
        return min((s for s in (step.again, again, silent or None) if s is not None), default=None)

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
        self,
        participant: SiteParticipant,
        dataset: SiteDataset,
        state: AgentState,
        image: str,
        *,
        fits: bool,
    ) -> None:
        """One preflight for each plan and form of the dataset; those of others go, and one that found faults is repeated."""
        wanted = jobs.preflight(
            participant, dataset, digest=state.plan_digest, image=image, settings=self._settings
        )
        present = await self._jobs(participant, children.PREFLIGHT)
        kept = [job for job in present if job["metadata"]["name"] == wanted["metadata"]["name"]]
        attempt = _attempt(kept[0]) if kept else 0
        due = self._settings.rechecks and not fits
        if due and kept and job_end(kept[0]) and ended_for(kept[0]) >= recheck_seconds(attempt):
            kept, attempt = [], attempt + 1  # the data may have been mended
        for job in present:
            if job not in kept:
                await self._delete(job)
        if not kept and not participant.spec.suspend and not state.finished:
            wanted["metadata"].setdefault("annotations", {})[ATTEMPT] = str(attempt)
            await self._cluster.make(wanted, manager=MANAGER)

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


def _podless(seen: Seen) -> bool:
    """Whether something that should have a pod has none."""
    jobs = [one for one in (seen.preflight, seen.trainer) if one.job is not None and not one.end]
    jobs = [one for one in jobs if not held_back(one.job)]  # its Job's change will tell
    return not seen.agent_pod or any(one.pod is None for one in jobs)


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
