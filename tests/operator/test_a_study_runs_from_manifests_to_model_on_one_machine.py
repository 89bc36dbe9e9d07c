"""All rooms together, under the operator: real aggregator, agents and trainers as processes, over mutual TLS."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests import small_study

from fedstudy.wire.admin import AggregatorState, Phase
from fedstudy_operator.cluster import Key, Object
from fedstudy_operator.local.forks import Forks, trainers
from fedstudy_operator.local.kubelet import Kubelet
from fedstudy_operator.local.processes import start_time
from fedstudy_operator.local.runner import LocalOperator
from fedstudy_operator.local.store import LocalCluster

pytestmark = pytest.mark.slow

SITES = ("north", "south")
STUDY = Key("FederatedStudy", "hub", "toy")


def resource(kind: str, namespace: str, name: str, spec: dict[str, Any]) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "fedstudy.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def manifests(rounds: int, release: str = "Never") -> list[Object]:
    study = small_study.spec(
        federation={"rounds": rounds, "minSites": 2, "roundTimeoutSeconds": 120},
        sites=[{"name": site} for site in SITES],
    )
    policy = {
        "purposes": ["DUO:0000007"],
        "algorithms": ["*"],
        "networks": ["*"],
        "minSites": 2,
        "requireSecureAggregation": False,
    }
    objects = [resource("FederatedStudy", "hub", "toy", study)]
    for site in SITES:
        dataset = {"volume": {"persistentVolumeClaim": "table"}, "policy": policy}
        participant = {
            "study": {"name": "toy", "namespace": "hub"},
            "siteName": site,
            "datasetRef": "table",
            "approval": {"mode": "Automatic"},
            "trainer": {"release": release},
        }
        objects += [
            resource("SiteDataset", site, "table", dataset),
            resource("SiteParticipant", site, "toy", participant),
        ]
    return objects


def table(folder: Path, seed: int) -> Path:
    chance = random.Random(seed)
    folder.mkdir()
    rows = ["participant_id\tsplit\tage\tidh"]
    for number in range(60):
        age = chance.gauss(50, 12)
        label = "mutant" if chance.random() < 1 / (1 + 2.7 ** ((age - 50) / 5)) else "wildtype"
        split = ("train", "train", "train", "val", "test")[number % 5]
        rows.append(f"p{seed}-{number}\t{split}\t{age:.1f}\t{label}")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return folder


async def wait_for(cluster: LocalCluster, operator: LocalOperator, kind: str, seconds: float = 150) -> Object:
    try:
        async with asyncio.timeout(seconds):
            async for event in cluster.watch("FederatedStudy"):
                operator.check()
                for condition in (event.object.get("status") or {}).get("conditions") or []:
                    if condition["type"] == kind and condition["status"] == "True":
                        return event.object
    except TimeoutError:
        for kind_ in ("FederatedStudy", "SiteParticipant"):
            for obj in await cluster.list(kind_):
                print(obj["metadata"], obj.get("status"))
        raise
    raise AssertionError


@pytest.fixture
async def forks(tmp_path: Path) -> AsyncIterator[Forks]:
    async with trainers(tmp_path / "logs", images=False) as made:
        yield made


async def test_a_study_completes_and_leaves_no_process(tmp_path: Path, forks: Forks) -> None:
    cluster = LocalCluster()
    claims = {(site, "table"): table(tmp_path / site, seed) for seed, site in enumerate(SITES)}
    kubelet = Kubelet(cluster, tmp_path / "state", logs=tmp_path / "logs", claims=claims, forks=forks)
    async with LocalOperator(cluster, kubelet) as operator:
        for obj in manifests(rounds=2):
            await cluster.apply(obj, manager="user")
        done = await wait_for(cluster, operator, "Complete")
        state = operator.state(STUDY)
        pids = list(kubelet.processes().values())
    assert isinstance(state, AggregatorState)
    assert done["status"]["model"]["digest"].startswith("blake3:")
    assert {site["name"]: site["decision"] for site in done["status"]["sites"]} == dict.fromkeys(
        SITES, "Enrolled"
    )
    assert not any(start_time(pid) for pid in pids)
    assert kubelet.peak_total > 0


async def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path, forks: Forks) -> None:
    claims = {(site, "table"): table(tmp_path / site, seed) for seed, site in enumerate(SITES)}
    first = LocalCluster()
    kubelet = Kubelet(first, tmp_path / "state", logs=tmp_path / "logs", claims=claims, forks=forks)
    async with LocalOperator(first, kubelet) as operator:
        for obj in manifests(rounds=6):
            await first.apply(obj, manager="user")
        await wait_for(first, operator, "Training")
    first.save(tmp_path / "state" / "cluster")
    second = LocalCluster()
    second.load(tmp_path / "state" / "cluster")
    kubelet = Kubelet(second, tmp_path / "state", logs=tmp_path / "logs", claims=claims, forks=forks)
    async with LocalOperator(second, kubelet) as operator:
        done = await wait_for(second, operator, "Complete")
    assert done["status"]["round"]["completed"] == 6
    assert done["status"]["planDigest"] == (await first.get(STUDY))["status"]["planDigest"]


async def test_killing_any_process_at_any_time_gives_the_same_bits(tmp_path: Path, forks: Forks) -> None:
    claims = {(site, "table"): table(tmp_path / site, seed) for seed, site in enumerate(SITES)}
    digests = []
    for victims in ((), ("aggregator", "agent", "trainer", "agent", "aggregator")):
        cluster = LocalCluster(uid=lambda obj: f"uid-{obj['metadata']['namespace']}-{obj['kind'].lower()}")
        folder = tmp_path / f"kills-{len(victims)}"
        starter = forks if victims else None  # a fork gives the bits of a process that was started as usual
        kubelet = Kubelet(cluster, folder / "state", logs=folder / "logs", claims=claims, forks=starter)
        async with LocalOperator(cluster, kubelet) as operator:
            for obj in manifests(rounds=30):
                await cluster.apply(obj, manager="user")
            await wait_for(cluster, operator, "Training")
            chance = random.Random(1)
            for victim in victims:
                await asyncio.sleep(chance.uniform(0.1, 0.6))  # at any instant, not at a chosen one
                state = operator.state(STUDY)
                assert isinstance(state, AggregatorState)
                assert state.phase is not Phase.COMPLETE
                pids = [pid for name, pid in kubelet.processes().items() if f"-{victim}-" in name]
                for pid in pids[:1]:
                    os.kill(pid, signal.SIGKILL)
            done = await wait_for(cluster, operator, "Complete")
        digests.append(done["status"]["model"]["digest"])
    assert digests[0] == digests[1]


async def test_a_trainer_that_gives_its_place_back_between_rounds_comes_back_for_each(
    tmp_path: Path, forks: Forks
) -> None:
    claims = {(site, "table"): table(tmp_path / site, seed) for seed, site in enumerate(SITES)}
    cluster = LocalCluster()
    kubelet = Kubelet(cluster, tmp_path / "state", logs=tmp_path / "logs", claims=claims, forks=forks)
    async with LocalOperator(cluster, kubelet) as operator:
        for obj in manifests(rounds=2, release="BetweenRounds"):
            await cluster.apply(obj, manager="user")
        await wait_for(cluster, operator, "Complete")
    assert len(list((tmp_path / "logs").glob("north.toy-trainer-*.log"))) > 1
