"""A run under way: show it, see when it is done, give up on what time does not mend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from fedstudy.errors import DataError, FedstudyError, RefusedError, StudyFailedError
from fedstudy.wire.admin import AgentState, AggregatorState, Phase
from fedstudy_operator.api import FederatedStudy, Reason, SiteParticipant
from fedstudy_operator.cluster import Key, Object
from fedstudy_operator.display import Display, StudyView
from fedstudy_operator.local.prepare import Options, Work
from fedstudy_operator.local.runner import LocalOperator
from fedstudy_operator.local.store import LocalCluster

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
    """A site that cannot take part as things are, and the condition that says so."""

    site: str
    condition: str
    message: str


@dataclass
class Session:
    """A run under way."""

    options: Options
    work: Work
    cluster: LocalCluster
    operator: LocalOperator
    display: Display
    progress: Callable[[Sequence[StudyView]], None]
    _said: set[Blocked] = field(default_factory=set)
    _since: dict[Blocked, float] = field(default_factory=dict)

    async def watch(self) -> None:
        """Show progress until all studies are complete and the agents have closed their books.

        Raises:
            DataError, RefusedError, StudyFailedError: a study cannot be completed.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.options.start_timeout
        while True:
            self.operator.check()
            views = [await self._view(study) for study in self.work.studies]
            self.display.show(views)
            self.progress(views)
            for study, view in zip(self.work.studies, views, strict=True):
                await self._judge(study, view)
            if all(view.state and view.state.phase is Phase.COMPLETE for view in views):
                break
            waiting = [v for v in views if v.state is None or v.state.phase is Phase.WAITING_FOR_SITES]
            if waiting and loop.time() > deadline:
                raise StudyFailedError(
                    f"{waiting[0].name}: too few sites came within {self.options.start_timeout:.0f} s: {waiting[0].waiting}.",
                    f"The logs are in {self.options.out / 'logs'}; --start-timeout gives more time.",
                )
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
        blocked = await self._blocked(study)
        names = {item.site for item in blocked}
        able = [p.spec.site_name for p in self.work.sites(study) if p.spec.site_name not in names]
        required = {site.name for site in study.spec.sites if site.required}
        if blocked and (len(able) < study.spec.federation.min_sites or required & names):
            lines = "\n".join(f"  {item.site}: {item.message}" for item in blocked)
            raise _LASTING[blocked[0].condition][1](
                f"{view.name}: {len(able)} of {len(able) + len(names)} sites can take part; "
                f"{study.spec.federation.min_sites} must.\n{lines}",
                "Mend what is said, then go on with --resume.",
            )
        for item in blocked:
            if item not in self._said:
                self._said.add(item)
                self.display.say(f"{view.name} goes on without {item.site}: {item.message}")
                await self._invite_only(study, able)

    async def _blocked(self, study: FederatedStudy) -> list[Blocked]:
        """The sites that are held up by what time does not mend, and have been for a while."""
        now = asyncio.get_running_loop().time()
        found = []
        for participant in self.work.sites(study):
            obj = await self.cluster.get(_key("SiteParticipant", participant))
            for why in _lasting(obj, approves=participant.spec.approval is not None)[:1]:
                found.append(Blocked(participant.spec.site_name, *why))
        self._since = {item: self._since.get(item, now) for item in [*found, *self._said]}
        return [item for item in found if now - self._since[item] >= _SETTLE]

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
        waiting = []
        for participant in self.work.sites(study):
            status = (await self.cluster.get(_key("SiteParticipant", participant))).get("status") or {}
            waiting.append(f"{participant.spec.site_name}: {status.get('summary') or 'starting'}")
        return StudyView(study.metadata.name, state, " · ".join(waiting))

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


def _lasting(obj: Object, *, approves: bool) -> list[tuple[str, str]]:
    """Conditions of a participant that time does not mend, with their messages.

    Args:
        approves: the spec holds an approval, so that waiting for one is only a matter of time.
    """
    found = []
    for entry in (obj.get("status") or {}).get("conditions") or []:
        reasons = _LASTING[entry["type"]][0] if entry["type"] in _LASTING else ()
        passing = approves and entry["reason"] == Reason.WAITING_FOR_APPROVAL.value
        if entry["status"] == "False" and not passing and entry["reason"] in {r.value for r in reasons}:
            found.append((entry["type"], entry.get("message") or entry["reason"]))
    return found
