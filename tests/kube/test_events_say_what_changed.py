"""Events of Kubernetes: one series for each cause, few of them, and a Warning only where somebody has to do something."""

from __future__ import annotations

from typing import Any

import pytest
from tests.kube.conftest import Kube, Start, condition, participant, study, until

from fedstudy_operator.api.conditions import Reason
from fedstudy_operator.kube.events import PER_MINUTE

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


async def _events(kube: Kube, kind: str) -> list[dict[str, Any]]:
    return [e for e in await kube.list("Event") if e["regarding"]["kind"] == kind]


async def test_changes_of_conditions_are_events(kube: Kube, start: Start) -> None:
    """Checklist G, point 30: types Normal and Warning, reasons of our enum, at most ten for an object in a minute."""
    await start()
    await kube.create(study())
    await kube.create(participant(kube.namespace))  # its dataset is not there

    async def told() -> bool:
        return bool(await _events(kube, "FederatedStudy")) and any(
            e["reason"] == "DatasetNotFound" for e in await _events(kube, "SiteParticipant")
        )

    await until(told, "events of both")
    for flip in range(8):
        await kube.merge("FederatedStudy", "glioma", {"spec": {"suspend": flip % 2 == 0}})
        await kube.until(
            "FederatedStudy",
            "glioma",
            lambda o: o["status"].get("observedGeneration") == o["metadata"]["generation"],
        )
    known = {reason.value for reason in Reason}
    for kind in ("FederatedStudy", "SiteParticipant"):
        events = await _events(kube, kind)
        assert {e["type"] for e in events} <= {"Normal", "Warning"}
        assert {e["reason"] for e in events} <= known
        names = [(e["reason"], e["note"]) for e in events]
        assert len(names) == len(set(names))  # the same again is one series
        written = sum(int((e.get("series") or {}).get("count") or 1) for e in events)
        assert written <= PER_MINUTE
    missing = [e for e in await _events(kube, "SiteParticipant") if e["reason"] == "DatasetNotFound"]
    assert [e["type"] for e in missing] == ["Warning"]
    obj = await kube.get("SiteParticipant", "glioma-north")
    assert obj is not None
    assert condition(obj, "Ready")["reason"] == "DatasetNotFound"
