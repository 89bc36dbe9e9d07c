"""Builders of children: names, owners, and what the pods may not do. Pure functions, so plain data goes in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import small_study

from fedstudy_operator.api import FederatedStudy, SiteDataset, SiteParticipant
from fedstudy_operator.children import participant, study, trainer
from fedstudy_operator.children.common import Settings, child_name
from fedstudy_operator.cluster import Object

SETTINGS = Settings()
IN_A_POD = Settings(metrics_port=9090)
NODES_OWN_DNS = "169.254.20.10/32"


def a_study(**spec: Any) -> FederatedStudy:
    return FederatedStudy.model_validate(
        {
            "metadata": {"name": "glioma", "namespace": "hub", "uid": "u1"},
            "spec": small_study.spec(sites=[{"name": "north"}, {"name": "south", "required": True}]) | spec,
        }
    )


def a_participant(**trainer_spec: Any) -> SiteParticipant:
    return SiteParticipant.model_validate(
        {
            "metadata": {"name": "glioma", "namespace": "north", "uid": "u2"},
            "spec": {
                "study": {"name": "glioma", "namespace": "hub"},
                "siteName": "north",
                "datasetRef": "scans",
                "approval": {"mode": "Automatic"},
                "trainer": trainer_spec,
            },
        }
    )


def a_dataset(**volume: Any) -> SiteDataset:
    return SiteDataset.model_validate(
        {
            "metadata": {"name": "scans", "namespace": "north", "uid": "u3"},
            "spec": {
                "volume": {"persistentVolumeClaim": "scans", **volume},
                "images": {"t1": "sub-{participant_id}/t1.nii.gz"},
                "columns": {"idh": "IDH status"},
                "policy": {"minCellCount": 7},
            },
        }
    )


def jobs(**trainer_spec: Any) -> list[Object]:
    p, d = a_participant(**trainer_spec), a_dataset()
    return [
        trainer.preflight(p, d, digest="sha256:0", image="i", settings=SETTINGS),
        trainer.trainer(p, d, work="0001-000-train-north", attempt=0, image="i", settings=SETTINGS),
    ]


def workloads(settings: Settings = SETTINGS) -> list[Object]:
    s, p, d = a_study(aggregator={"image": "ghcr.io/x/hub:1"}), a_participant(), a_dataset()
    return [
        study.aggregator(s, s.plan(), settings),
        participant.agent(p, "glioma-aggregator.hub.svc:443", "aggregator", settings),
        trainer.preflight(p, d, digest="sha256:0", image="quay.io/x/trainer@sha256:1", settings=settings),
        trainer.trainer(p, d, work="w", attempt=0, image="quay.io/x/trainer@sha256:1", settings=settings),
    ]


def pod_of(workload: Object) -> Object:
    return dict(workload["spec"]["template"]["spec"])


def volume(workload: Object, name: str) -> Object:
    return next(v for v in pod_of(workload)["volumes"] if v["name"] == name)


@pytest.mark.parametrize("workload", workloads(), ids=lambda w: w["metadata"]["name"])
def test_every_pod_is_restricted_and_has_no_token(workload: Object) -> None:
    spec = workload["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 65532
    assert not set(spec) & {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"}
    assert not any("hostPath" in v for v in spec["volumes"])
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    claimed = {t["metadata"]["name"] for t in workload["spec"].get("volumeClaimTemplates", [])}
    assert mounted == {volume["name"] for volume in spec["volumes"]} | claimed
    assert all("value" in entry for entry in container["env"])


@pytest.mark.parametrize("job", jobs(), ids=lambda j: j["metadata"]["name"])
def test_data_are_mounted_read_only_twice_over(job: Object) -> None:
    spec = job["spec"]["template"]["spec"]
    volume = next(v for v in spec["volumes"] if v["name"] == "data")
    assert volume["persistentVolumeClaim"] == {"claimName": "scans", "readOnly": True}
    mount = next(m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "data")
    assert mount == {"name": "data", "mountPath": "/data", "readOnly": True}


def test_final_exit_codes_end_a_job_and_disruptions_do_not_count() -> None:
    rules = jobs()[1]["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["action"] == "Ignore"
    assert rules[1]["onExitCodes"]["values"] == [3, 4, 5, 6]
    assert rules[1]["onExitCodes"]["containerName"] == "trainer"


def test_what_the_hospital_says_of_trainers_reaches_the_pod() -> None:
    job = jobs(
        resources={"limits": {"nvidia.com/gpu": 1, "memory": "8Gi"}},
        nodeSelector={"gpu": "a100"},
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        runtimeClassName="nvidia",
        priorityClassName="low",
        schedulerName="volcano",
        sharedMemory="2Gi",
        supplementalGroups=[4000],
        imagePullSecrets=["harbor"],
        scratch={"sizeLimit": "50Gi"},
        queueName="research",
        release="Never",
        threads=4,
    )[1]
    spec = job["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"] == {
        "requests": {"nvidia.com/gpu": "1"},
        "limits": {"nvidia.com/gpu": "1", "memory": "8Gi"},
    }
    assert spec["nodeSelector"] == {"gpu": "a100"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert (spec["runtimeClassName"], spec["priorityClassName"]) == ("nvidia", "low")
    assert spec["schedulerName"] == "volcano"
    assert spec["securityContext"]["supplementalGroups"] == [4000]
    assert spec["imagePullSecrets"] == [{"name": "harbor"}]
    assert volume(job, "shm")["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
    assert volume(job, "scratch")["emptyDir"] == {"sizeLimit": "50Gi"}
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert job["spec"]["suspend"] is True
    environment = {e["name"]: e["value"] for e in spec["containers"][0]["env"]}
    assert environment["FEDSTUDY_RELEASE"] == "Never"
    assert environment["FEDSTUDY_THREADS"] == "4"


def test_a_trainer_reaches_its_agent_and_nobody_reaches_a_trainer() -> None:
    policy = participant.trainer_network_policy(a_participant(), "trainer")["spec"]
    assert policy["ingress"] == []
    to_agent = policy["egress"][1]
    assert to_agent["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "agent"
    for rule in policy["egress"]:
        assert rule["to"], "anywhere is too far"
        assert rule["ports"]
        assert all(peer.get("ipBlock", {}).get("cidr") in (None, NODES_OWN_DNS) for peer in rule["to"])


def test_an_aggregator_calls_nobody() -> None:
    policy = study.network_policy(a_study(), SETTINGS)["spec"]
    assert (policy["policyTypes"], policy["egress"]) == (["Ingress", "Egress"], [])


def test_every_child_belongs_to_its_resource_and_says_what_it_is() -> None:
    s = a_study()
    children = [
        study.configuration(s, s.plan(), SETTINGS),
        study.service(s),
        study.network_policy(s, SETTINGS),
        study.disruption_budget(s),
        *workloads(),
    ]
    for child in children:
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["apiVersion"], owner["controller"]) == ("fedstudy.io/v1alpha1", True)
        labels = child["metadata"]["labels"]
        assert {
            f"app.kubernetes.io/{n}" for n in ("name", "instance", "component", "part-of", "managed-by")
        } <= set(labels)
        assert all(len(value) <= 63 for value in labels.values())


def test_the_aggregator_starts_anew_with_another_plan_and_only_then() -> None:
    one, more_sites, more_rounds = (
        a_study(),
        a_study(sites=[{"name": "north"}]),
        a_study(federation={"rounds": 3}),
    )
    templates = [
        study.aggregator(s, s.plan(), SETTINGS)["spec"]["template"] for s in (one, more_sites, more_rounds)
    ]
    assert templates[0] == templates[1]
    assert templates[0] != templates[2]


def test_the_configurations_are_what_the_processes_read() -> None:
    s = a_study()
    data = study.configuration(s, s.plan(), SETTINGS)["data"]
    assert json.loads(data["study.json"]) == {
        "uid": "u1",
        "trustDomain": "fedstudy",
        "sites": ["north", "south"],
        "required": ["south"],
    }
    assert data["plan.json"].encode() == s.plan().canonical()
    dataset = json.loads(
        participant.dataset_configuration(a_participant(), a_dataset())["data"]["dataset.json"]
    )
    assert set(dataset) == {"format", "table", "images", "columns", "minCellCount"}
    assert dataset["minCellCount"] == 7


def test_a_changed_dataset_or_plan_asks_for_a_new_preflight() -> None:
    def name(digest: str, **volume: Any) -> str:
        made = trainer.preflight(
            a_participant(), a_dataset(**volume), digest=digest, image="i", settings=SETTINGS
        )
        return str(made["metadata"]["name"])

    assert name("a") == name("a")
    assert len({name("a"), name("b"), name("a", subPath="x")}) == 3


@given(
    st.lists(st.from_regex(r"[a-z0-9]([a-z0-9\-]{0,61}[a-z0-9])?", fullmatch=True), min_size=1, max_size=4)
)
def test_names_are_labels_and_stay_apart(parts: list[str]) -> None:
    name = child_name(*parts)
    assert len(name) <= 52
    assert name == child_name(*parts)
    assert name != child_name(*parts, "x")
    assert name[0].isalnum()
    assert name[-1].isalnum()
