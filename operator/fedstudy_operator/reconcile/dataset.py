"""SiteDataset: says whether its data were opened, what was counted, and which studies use them. It makes nothing."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from fedstudy.wire.admin import AgentState, DatasetProfile
from fedstudy_operator.api.conditions import Condition, Reason, condition, merge
from fedstudy_operator.api.dataset import SiteDataset
from fedstudy_operator.cluster import Cluster, Key, NotFoundError, Object
from fedstudy_operator.reconcile.admin import Peers
from fedstudy_operator.reconcile.passes import STATUS_MANAGER
from fedstudy_operator.reconcile.words import fault_text


class DatasetReconciler:
    """Describes one dataset."""

    def __init__(self, cluster: Cluster, peers: Peers) -> None:
        self._cluster = cluster
        self._peers = peers

    async def reconcile(self, key: Key) -> float | None:
        """One pass; it is run again whenever a participant that uses the dataset changes."""
        try:
            obj = await self._cluster.get(key)
        except NotFoundError:
            return None
        using = [
            participant
            for participant in await self._cluster.list("SiteParticipant", key.namespace)
            if participant["spec"].get("datasetRef") == key.name
        ]
        try:
            SiteDataset.model_validate(obj)
        except ValidationError as error:
            wanted = [
                condition(kind, kind == "Stalled", Reason.INVALID_SPEC, fault_text(error))
                for kind in ("Ready", "Stalled")
            ]
            await self._write(key, obj, {}, wanted, [])
            return None
        found = [profile for participant in using if (profile := self._profile(participant))]
        profile = found[0] if found else None
        before = obj.get("status") or {}
        counts = counted(profile) if profile else before.get("profile", {})
        await self._write(key, obj, counts, conditions(profile, using, before), using)
        return None

    def _profile(self, participant: Object) -> DatasetProfile | None:
        metadata = participant["metadata"]
        state = self._peers.state(Key("SiteParticipant", metadata["namespace"], metadata["name"]))
        return state.profile if isinstance(state, AgentState) else None

    async def _write(
        self, key: Key, obj: Object, profile: dict[str, Any], wanted: list[Condition], using: list[Object]
    ) -> None:
        generation = int(obj["metadata"].get("generation", 1))
        before = (obj.get("status") or {}).get("conditions") or []
        ready = next(c for c in wanted if c.type == "Ready")
        value = {
            "observedGeneration": generation,
            "conditions": merge(before, wanted, generation=generation),
            "profile": profile,
            "studies": sorted(participant["metadata"]["name"] for participant in using),
            "summary": str(ready.reason),
        }
        await self._cluster.patch_status(key, value, manager=STATUS_MANAGER)


def counted(profile: DatasetProfile) -> dict[str, Any]:
    """A preflight's counts as a status shows them; small ones are left out, as they were never told."""
    result: dict[str, Any] = {
        "images": [i.model_dump(mode="json", by_alias=True, exclude_none=True) for i in profile.images],
        "labels": [c.model_dump(mode="json", by_alias=True, exclude_none=True) for c in profile.labels],
    }
    if profile.cases is not None:
        result["cases"] = profile.cases
    return result


def conditions(
    profile: DatasetProfile | None, using: list[Object], before: dict[str, Any]
) -> list[Condition]:
    """Readable, Profiled and Ready. Pure."""
    if profile is not None:
        readable = condition("Readable", True, Reason.READABLE)
        profiled = condition(
            "Profiled", True, Reason.PROFILED, "" if profile.fits else "; ".join(profile.faults)
        )
        return [readable, profiled, condition("Ready", True, Reason.PROFILED)]
    for participant in using:
        for seen in (participant.get("status") or {}).get("conditions") or []:
            if seen["type"] == "DataAvailable" and seen["reason"] in (
                Reason.CLAIM_NOT_FOUND,
                Reason.PREFLIGHT_FAILED,
            ):
                reason, text = Reason(seen["reason"]), seen["message"]
                return [
                    condition("Readable", False, reason, text),
                    condition("Profiled", False, Reason.NOT_PROFILED),
                    condition("Ready", False, reason, text),
                ]
    known = {c["type"]: c for c in before.get("conditions") or []}
    if known.get("Profiled", {}).get("status") == "True":
        return [Condition.model_validate(known[kind]) for kind in ("Readable", "Profiled", "Ready")]
    return [
        condition("Readable", None, Reason.NOT_PROFILED),
        condition("Profiled", False, Reason.NOT_PROFILED),
        condition(
            "Ready", True, Reason.NOT_PROFILED, "a preflight looks at the data when a study asks for them"
        ),
    ]
