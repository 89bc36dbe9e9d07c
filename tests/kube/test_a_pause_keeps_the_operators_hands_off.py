"""The annotation fedstudy.io/paused: nothing is written but the word that it is so; without it, work goes on."""

from __future__ import annotations

import asyncio

import pytest
from tests.kube.conftest import Kube, Start, condition, study

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


async def test_a_paused_study_is_left_alone_and_says_so(kube: Kube, start: Start) -> None:
    """Checklist G, point 27: no writes, the condition shows it, the metric shows it; the end of the pause undoes all three."""
    operator = await start()
    await kube.create(study())
    await kube.until("StatefulSet", "glioma-aggregator", lambda obj: True)
    await kube.merge(
        "FederatedStudy", "glioma", {"metadata": {"annotations": {"fedstudy.io/paused": "true"}}}
    )
    paused = await kube.until(
        "FederatedStudy", "glioma", lambda obj: condition(obj, "Paused").get("status") == "True"
    )
    assert condition(paused, "Paused")["reason"] == "PausedByAnnotation"
    assert condition(paused, "Ready") != {}
    assert await operator.metric("fedstudy_operator_paused") == 1
    await kube.delete("Service", "glioma-aggregator")
    await kube.merge("FederatedStudy", "glioma", {"spec": {"suspend": True}})
    await asyncio.sleep(5)
    assert await kube.get("Service", "glioma-aggregator") is None
    still = await kube.get("FederatedStudy", "glioma")
    assert still is not None
    assert condition(still, "Suspended")["status"] == "False"
    await kube.merge("FederatedStudy", "glioma", {"metadata": {"annotations": {"fedstudy.io/paused": None}}})
    await kube.until("Service", "glioma-aggregator", lambda obj: True)
    awake = await kube.until(
        "FederatedStudy", "glioma", lambda obj: condition(obj, "Suspended").get("status") == "True"
    )
    assert condition(awake, "Paused") == {}
    assert await operator.metric("fedstudy_operator_paused") == 0


async def test_a_pause_from_before_the_operator_holds(kube: Kube, start: Start) -> None:
    """Checklist G, point 27: a study that is born paused, before the operator starts, gets no children."""
    born = study()
    born["metadata"]["annotations"] = {"fedstudy.io/paused": "true"}
    await kube.create(born)
    await start()
    await kube.until("FederatedStudy", "glioma", lambda obj: condition(obj, "Paused").get("status") == "True")
    assert await kube.list("StatefulSet") == []
