"""A run under way: show it, see when it is done, give up on what time does not mend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from fedstudy.errors import DataError, FedstudyError, NoSpaceError, RefusedError, StudyFailedError
from fedstudy.wire.admin import AgentState, AggregatorState, Phase
from fedstudy_operator.api import FederatedStudy, Reason, SiteParticipant
from fedstudy_operator.children import participant as participant_children
from fedstudy_operator.children import study as study_children
from fedstudy_operator.children.common import Owner
from fedstudy_operator.cluster import Key, Object
from fedstudy_operator.display import Display, StudyView, waiting_text
from fedstudy_operator.local.prepare import Options, Work
from fedstudy_operator.local.runner import LocalOperator
from fedstudy_operator.local.store import LocalCluster
from fedstudy_operator.local.stuck import stuck

USER = "user"
"""Field manager of what stands in the manifests."""

_TICK = 0.25
_FINISH = 60.0
_SETTLE = 5.0
"""A condition may be of what an agent was told in an earlier run, until it has heard what holds now."""

_LASTING: dict[str, tuple[tuple[Reason, ...], type[FedstudyError]]] = {
    "DataAvailable": ((Reason.CONTRACT_MISMATCH, Reason.CLAIM_NOT_FOUND, Reason.PREFLIGHT_FAILED), DataError),
    "PolicySatisfied": ((Reason.POLICY_REFUSED,), RefusedError),
    "PlanApproved": (
        (Reason.WAITING_FOR_APPROVAL, Reason.DIGEST_MISMATCH, Reason.APPROVAL_EXPIRED),
        RefusedError,
    ),
    "Enrolled": ((Reason.INVITATION_REFUSED, Reason.REVOKED, Reason.CERTIFICATE_EXPIRED), RefusedError),
    "ComputeAvailable": (
        (Reason.TRAINER_FAILED, Reason.OUT_OF_MEMORY, Reason.CRASH_LOOPING),
        StudyFailedError,
    ),
}
"""Conditions that time does not mend: type → reasons, and the error that stands for them."""


@dataclass(frozen=True)
class Blocked:
    """A site that cannot take part as things are, why, and the error that stands for it."""

    site: str
    message: str
    error: type[FedstudyError]


@dataclass
class Session:
    """A run under way."""

    options: Options
    work: Work
    cluster: LocalCluster
    operator: LocalOperator
    display: Display
    progress: Callable[[Sequence[StudyView]], None]
    _without: dict[str, Blocked] = field(default_factory=dict)
    _warned: set[tuple[str, str]] = field(default_factory=set)
    _since: dict[Blocked, float] = field(default_factory=dict)
    _waiting: dict[str, float] = field(default_factory=dict)

    async def watch(self) -> None:
        """Show progress until all studies are complete and the agents have closed their books.

        Raises:
            FedstudyError: a study cannot be completed; the class says why.
        """
        while True:
            self.operator.check()
            views = [await self._view(study) for study in self.work.studies]
            self.display.show(views)
            self.progress(views)
            for study, view in zip(self.work.studies, views, strict=True):
                await self._judge(study, view)
            if all(view.state and view.state.phase is Phase.COMPLETE for view in views):
                break
            await asyncio.sleep(_TICK)
        await self._books_closed()

    def aggregator(self, study: FederatedStudy) -> AggregatorState | None:
        """The latest state of a study's aggregator."""
        found = self.operator.state(_key("FederatedStudy", study))
        return found if isinstance(found, AggregatorState) else None

    def agent(self, participant: SiteParticipant) -> AgentState | None:
        """The latest state of a participant's agent."""
        found = self.operator.state(_key("SiteParticipant", participant))
        return found if isinstance(found, AgentState) else None

    async def _judge(self, study: FederatedStudy, view: StudyView) -> None:
        """Give up on a study that cannot go on; go on without the sites that cannot."""
        if view.state is not None and view.state.phase is Phase.FAILED:
            why = view.state.message or view.state.reason
            raise StudyFailedError(
                f"{view.name} failed: {why}", f"The logs are in {self.options.out / 'logs'}."
            )
        if view.state is not None and view.state.phase is Phase.COMPLETE:
            return
        await self._check_aggregator(study)
        self._check_wait(view)
        self._warn(study)
        blocked = await self._blocked(study)
        names = {item.site for item in blocked}
        able = [p.spec.site_name for p in self.work.sites(study) if p.spec.site_name not in names]
        required = {site.name for site in study.spec.sites if site.required}
        if blocked and (len(able) < study.spec.federation.min_sites or required & names):
            lines = "\n".join(f"  {item.site}: {item.message}" for item in blocked)
            raise blocked[0].error(
                f"{view.name}: {len(able)} of {len(able) + len(names)} sites can take part; "
                f"{study.spec.federation.min_sites} must.\n{lines}",
                "Mend what is said, then go on with --resume.",
            )
        for item in blocked:
            if item.site not in self._without:
                self._without[item.site] = item
                self.display.say(f"{view.name} goes on without {item.site}: {item.message}")
                await self._invite_only(study, able)

    async def _blocked(self, study: FederatedStudy) -> list[Blocked]:
        """The sites that are held up by what time does not mend, and have been for a while."""
        now = asyncio.get_running_loop().time()
        found: list[Blocked] = []
        for participant in self.work.sites(study):
            site = participant.spec.site_name
            if (
                site in self._without
            ):  # its invitation is withdrawn: what it says now is only what follows from that
                found.append(self._without[site])
                continue
            obj = await self.cluster.get(_key("SiteParticipant", participant))
            why = _lasting(obj, approves=participant.spec.approval is not None)
            agent = stuck(
                await self._pods(participant_children.owner_of(participant), participant_children.AGENT)
            )
            found += [Blocked(site, *first) for first in (*why, agent) if first][:1]
        self._since = {item: self._since.get(item, now) for item in found}
        return [item for item in found if item.site in self._without or now - self._since[item] >= _SETTLE]

    async def _pods(self, owner: Owner, component: str) -> list[Object]:
        return await self.cluster.list("Pod", owner.namespace, owner.selector(component))

    async def _check_aggregator(self, study: FederatedStudy) -> None:
        """Give up on an aggregator that does not come up."""
        trouble = stuck(await self._pods(study_children.owner_of(study), study_children.AGGREGATOR))
        if trouble is not None:
            raise trouble[1](
                f"{study.metadata.name}: {trouble[0]}",
                f"Mend it, then go on with --resume. The logs are in {self.options.out / 'logs'}.",
            )

    def _warn(self, study: FederatedStudy) -> None:
        """Say once what a check of the data found that lets a site take part."""
        for participant in self.work.sites(study):
            agent, site = self.agent(participant), participant.spec.site_name
            for text in agent.profile.warnings if agent and agent.profile and agent.profile.fits else ():
                if (site, text) not in self._warned:
                    self._warned.add((site, text))
                    self.display.say(f"{study.metadata.name}: {site}: {text}")

    def _check_wait(self, view: StudyView) -> None:
        """A wait has an end: for sites, for a quorum, for room on the disk."""
        now, name = asyncio.get_running_loop().time(), view.name
        why = _waits(view)
        if not why:
            self._waiting.pop(name, None)
        elif now - self._waiting.setdefault(name, now) > self.options.start_timeout:
            full = view.state is not None and view.state.reason == Reason.NO_SPACE.value
            raise (NoSpaceError if full else StudyFailedError)(
                f"{name}: waited for {self.options.start_timeout:.0f} s: {why}",
                f"Go on with --resume; --start-timeout gives more time. The logs are in {self.options.out / 'logs'}.",
            )

    async def _invite_only(self, study: FederatedStudy, sites: Sequence[str]) -> None:
        """Withdraw invitations of sites that cannot come, so that nobody waits for them; another run invites them again."""
        obj = await self.cluster.get(_key("FederatedStudy", study))
        kept = [entry for entry in obj["spec"]["sites"] if entry["name"] in sites]
        meta = {name: obj["metadata"][name] for name in ("name", "namespace")}
        wanted = {
            "apiVersion": obj["apiVersion"],
            "kind": obj["kind"],
            "metadata": meta,
            "spec": {**obj["spec"], "sites": kept},
        }
        await self.cluster.apply(wanted, manager=USER)

    async def _view(self, study: FederatedStudy) -> StudyView:
        state = self.aggregator(study)
        if state is not None and state.phase is not Phase.WAITING_FOR_SITES:
            return StudyView(study.metadata.name, state)
        summaries = {}
        for participant in self.work.sites(study):
            status = (await self.cluster.get(_key("SiteParticipant", participant))).get("status") or {}
            summaries[participant.spec.site_name] = status.get("summary") or ""
        return StudyView(study.metadata.name, state, waiting_text(summaries))

    async def _books_closed(self) -> None:
        """Wait until each connected agent knows that the study is over, so that the ledgers are whole; a minute at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FINISH):
                while any(not _closed(self.agent(participant)) for participant in self.work.participants):  # noqa: ASYNC110 - states come without an event
                    await asyncio.sleep(_TICK)


def _closed(agent: AgentState | None) -> bool:
    return agent is None or not agent.connected or agent.finished


def _key(kind: str, resource: FederatedStudy | SiteParticipant) -> Key:
    return Key(kind, resource.metadata.namespace, resource.metadata.name)


def _lasting(obj: Object, *, approves: bool) -> list[tuple[str, type[FedstudyError]]]:
    """What of a participant's conditions time does not mend: messages, and the errors that stand for them.

    Args:
        approves: the spec holds an approval, so that waiting for one is only a matter of time.
    """
    found: list[tuple[str, type[FedstudyError]]] = []
    for entry in (obj.get("status") or {}).get("conditions") or []:
        reasons, error = _LASTING.get(entry["type"], ((), FedstudyError))
        passing = approves and entry["reason"] == Reason.WAITING_FOR_APPROVAL.value
        if entry["status"] == "False" and not passing and entry["reason"] in {r.value for r in reasons}:
            found.append((entry.get("message") or entry["reason"], error))
    return found


def _waits(view: StudyView) -> str:
    """What a study waits for; empty where it goes on."""
    state = view.state
    if state is None or state.phase is Phase.WAITING_FOR_SITES:
        return " ".join(word for word in (state.message if state else "", view.waiting) if word)
    return state.message if state.reason in (Reason.QUORUM_MISSING, Reason.NO_SPACE) else ""
