"""A SiteDataset's status says what participants found in the data: it is due when theirs says something new of it, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fedstudy_operator.children.common import Settings
from fedstudy_operator.cluster import Key, Object
from fedstudy_operator.controller import Controller
from fedstudy_operator.local.store import LocalCluster

DATASET = Key("SiteDataset", "hospital", "scans")


def participant(data: str, rounds: int = 0) -> Object:
    return {
        "apiVersion": "fedstudy.io/v1alpha1",
        "kind": "SiteParticipant",
        "metadata": {"name": "glioma", "namespace": "hospital", "uid": "u", "resourceVersion": "1"},
        "spec": {"study": {"name": "glioma"}, "siteName": "north", "datasetRef": "scans"},
        "status": {
            "round": rounds,
            "conditions": [{"type": "DataAvailable", "status": "False", "reason": data, "message": ""}],
        },
    }


class Passes:
    """The keys that a controller's queue gives out."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.given: asyncio.Queue[Key] = asyncio.Queue()

    async def take(self, key: Key) -> None:
        self.given.put_nowait(key)

    async def next(self) -> Key:
        async with asyncio.timeout(20):
            return await self.given.get()


@pytest.fixture
async def passes(tmp_path: Path) -> AsyncIterator[Passes]:
    controller = Controller(LocalCluster(), resolve=str, folder=tmp_path, settings=Settings())
    made = Passes(controller)
    work = asyncio.create_task(controller.queue.run(made.take))
    await controller.happened(participant("Unknown"))
    assert {await made.next(), await made.next()} == {Key("SiteParticipant", "hospital", "glioma"), DATASET}
    yield made
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def test_a_dataset_is_due_when_a_status_of_ours_says_something_new_of_the_data(passes: Passes) -> None:
    passes.controller.wrote(participant("Unknown"), participant("ClaimNotFound"))
    assert await passes.next() == DATASET


async def test_a_dataset_is_not_due_for_mere_progress(passes: Passes) -> None:
    passes.controller.wrote(participant("Fits", rounds=1), participant("Fits", rounds=2))
    passes.controller.add(Key("SiteParticipant", "hospital", "last"))
    assert await passes.next() == Key("SiteParticipant", "hospital", "last")
    assert passes.given.empty()
