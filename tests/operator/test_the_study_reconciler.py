"""The hub's half: what a FederatedStudy becomes, and what its status says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.operator.hub import KEY, Hub, condition

from fedstudy.identity import Identity, Role
from fedstudy.wire.admin import (
    Phase,
    SetSites,
    SiteState,
    Suspend,
)
from fedstudy_operator.api import FederatedStudy, Reason
from fedstudy_operator.children.study import owner_of
from fedstudy_operator.cluster import Key
from fedstudy_operator.reconcile.certificates import Certificates, Leaf
from fedstudy_operator.reconcile.study_status import bucket


async def test_the_first_pass_makes_everything_and_the_second_writes_nothing(hub: Hub) -> None:
    await hub.apply()
    status = await hub.step()
    assert condition(status, "Ready") == ("Unknown", Reason.PROVISIONING)
    assert condition(status, "Reconciling")[0] == "True"
    assert condition(status, "CertificatesReady")[0] == "True"
    assert status["endpoint"] == "glioma-aggregator.hub.svc:443"
    kinds = ("ConfigMap", "Service", "NetworkPolicy", "PodDisruptionBudget", "StatefulSet", "Secret")
    made = {kind: [o["metadata"]["name"] for o in await hub.cluster.list(kind, "hub")] for kind in kinds}
    assert made["Secret"] == [
        "glioma-aggregator-tls",
        "glioma-authority",
        "glioma-invitation-north",
        "glioma-invitation-south",
        "glioma-operator-tls",
    ]
    assert all(made.values())
    before = {kind: await hub.cluster.list(kind) for kind in (*kinds, "FederatedStudy")}
    await hub.step()
    assert {kind: await hub.cluster.list(kind) for kind in before} == before


async def test_a_deleted_study_takes_its_children_along(hub: Hub) -> None:
    await hub.apply()
    await hub.step()
    await hub.cluster.delete(KEY)
    assert await hub.reconciler.reconcile(KEY) is None
    assert await hub.cluster.list("Secret") == []
    assert hub.peers.endpoints == {}


async def test_the_aggregator_is_told_who_is_invited_and_when_to_stop_and_not_twice(hub: Hub) -> None:
    await hub.apply(suspend=True)
    hub.says()
    await hub.step()
    await hub.step()
    assert hub.peers.told == [SetSites(sites=["north", "south"], required=["south"]), Suspend(suspend=True)]
    await hub.apply(suspend=False)
    await hub.step()
    assert hub.peers.told[2:] == [Suspend(suspend=False)]


STATES: list[tuple[dict[str, Any], Phase, dict[str, Any], dict[str, tuple[str, Reason]]]] = [
    (
        {},
        Phase.WAITING_FOR_SITES,
        {},
        {
            "Ready": ("False", Reason.WAITING_FOR_SITES),
            "QuorumReached": ("False", Reason.TOO_FEW_SITES),
            "SitesApproved": ("False", Reason.WAITING_FOR_SITES),
            "Training": ("False", Reason.NOT_STARTED),
            "Reconciling": ("True", Reason.WAITING_FOR_SITES),
            "AggregatorReady": ("True", Reason.AVAILABLE),
        },
    ),
    (
        {"sites": [], "federation": {"rounds": 2}},
        Phase.WAITING_FOR_SITES,
        {},
        {"Ready": ("False", Reason.NO_SITES)},
    ),
    (
        {},
        Phase.TRAINING,
        {
            "round": 1,
            "sites": [SiteState(name=n, connected=True, state="Training") for n in ("north", "south")],
        },
        {
            "Ready": ("True", Reason.RUNNING),
            "QuorumReached": ("True", Reason.ENOUGH_SITES),
            "SitesApproved": ("True", Reason.ALL_APPROVED),
            "Training": ("True", Reason.ROUND_IN_PROGRESS),
            "Reconciling": ("absent", ""),  # type: ignore[dict-item]
        },
    ),
    ({}, Phase.TRAINING, {"reason": "QuorumMissing"}, {"Ready": ("False", Reason.QUORUM_MISSING)}),
    (
        {},
        Phase.TRAINING,
        {"reason": "NoSpace"},
        {"Ready": ("False", Reason.NO_SPACE), "Training": ("False", Reason.NO_SPACE)},
    ),
    (
        {"suspend": True},
        Phase.SUSPENDED,
        {},
        {"Ready": ("True", Reason.SUSPENDED_BY_USER), "Suspended": ("True", Reason.SUSPENDED_BY_USER)},
    ),
    (
        {},
        Phase.COMPLETE,
        {"reason": "TargetMetricReached"},
        {"Ready": ("True", Reason.COMPLETED), "Complete": ("True", Reason.TARGET_METRIC_REACHED)},
    ),
    (
        {},
        Phase.FAILED,
        {"message": "broken"},
        {
            "Ready": ("False", Reason.FAILED),
            "Failed": ("True", Reason.FAILED),
            "Stalled": ("True", Reason.FAILED),
        },
    ),
]


@pytest.mark.parametrize(("spec", "phase", "fields", "expected"), STATES)
async def test_each_phase_has_its_conditions(
    hub: Hub, spec: dict[str, Any], phase: Phase, fields: dict[str, Any], expected: dict[str, tuple[str, str]]
) -> None:
    await hub.apply(**spec)
    hub.says(phase, **fields)
    await hub.step()
    await hub.serve()
    status = await hub.step()
    assert {kind: condition(status, kind) for kind in expected} == expected


async def test_a_lost_aggregator_is_said_and_what_was_known_stays(hub: Hub) -> None:
    await hub.apply()
    hub.says(
        Phase.COMPLETE, round=2, metrics={"auc": 0.9}, metrics_round=2, model_round=2, model_digest="sha256:m"
    )
    await hub.step()
    hub.peers.states.clear()
    status = await hub.step()
    assert status["metrics"] == [{"name": "auc", "value": 0.9, "round": 2}]
    assert status["model"]["digest"] == "sha256:m"
    assert condition(status, "Complete")[0] == "True"
    assert condition(status, "Ready")[0] == "True"


POD_CAUSES: list[tuple[dict[str, Any], Reason]] = [
    (
        {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}},
        Reason.IMAGE_PULL_FAILED,
    ),
    (
        {
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "message": '{"level":"error","event":"no luck"}\n'}},
        },
        Reason.CRASH_LOOPING,
    ),
    ({"lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}, Reason.OUT_OF_MEMORY),
]


@pytest.mark.parametrize(("container", "reason"), POD_CAUSES)
async def test_why_the_aggregator_does_not_run_is_a_typed_reason(
    hub: Hub, container: dict[str, Any], reason: Reason
) -> None:
    await hub.apply()
    await hub.step()
    sts = await hub.cluster.get(Key("StatefulSet", "hub", "glioma-aggregator"))
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "namespace": "hub",
            "labels": sts["spec"]["template"]["metadata"]["labels"],
        },
    }
    await hub.cluster.apply(pod, manager="kubelet")
    await hub.cluster.patch_status(
        Key("Pod", "hub", "p"), {"containerStatuses": [container]}, manager="kubelet"
    )
    status = await hub.step()
    assert condition(status, "AggregatorReady") == ("False", reason)


async def test_a_spec_that_contradicts_itself_is_stalled_with_the_field(hub: Hub) -> None:
    await hub.apply(model={"network": {"name": "DenseNet121"}})
    status = await hub.step()
    assert condition(status, "Stalled") == ("True", Reason.INVALID_SPEC)
    assert "model.network.name" in str(status["conditions"])


async def test_certificates_are_renewed_in_time(hub: Hub) -> None:
    await hub.apply()
    owner = owner_of(FederatedStudy.model_validate(await hub.cluster.get(KEY)))
    certificates = Certificates(hub.cluster, owner)
    authority = await certificates.authority("x")
    leaf = Leaf("t", "operator", Identity("fedstudy", "study", "u", Role.OPERATOR), client=True)
    first = await certificates.leaf(authority, leaf)
    assert await certificates.leaf(authority, leaf) == first
    assert await certificates.leaf(authority, leaf, datetime.now(UTC) + timedelta(days=300)) != first


@given(st.integers(1, 10**6))
def test_a_bucket_holds_its_number(samples: int) -> None:
    text = bucket(samples)
    tests: list[tuple[str, Callable[[str], bool]]] = [
        ("<", lambda t: samples < int(t[1:])),
        (">=", lambda t: samples >= int(t[2:])),
        ("", lambda t: int(t.split("-")[0]) <= samples <= int(t.split("-")[1])),
    ]
    holds = next(test for prefix, test in tests if text.startswith(prefix))
    assert holds(text)
