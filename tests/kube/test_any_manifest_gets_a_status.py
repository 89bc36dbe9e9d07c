"""Manifests that nobody would write (checklist 34; FEDSTUDY_FUZZ_MANIFESTS says how many): the API server refuses one, or the operator has an answer to it."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest
import yaml
from tests.cluster.control_plane import REPOSITORY
from tests.kube.conftest import Kube, Start, condition, until
from tests.kube.manifests import mutated

from fedstudy_operator.cluster import ConflictError, InvalidObjectError, Object

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

COUNT = int(os.environ.get("FEDSTUDY_FUZZ_MANIFESTS", "1000"))
BATCH = 500
AT_ONCE = 24
SEED = 34
CORPUS: dict[str, Any] = yaml.safe_load((REPOSITORY / "tests/corpus/manifests.yaml").read_text())


def _schemas() -> dict[str, Any]:
    found = {}
    for path in (REPOSITORY / "crds").glob("*.yaml"):
        spec = yaml.safe_load(path.read_text())["spec"]
        found[spec["names"]["kind"]] = spec["versions"][0]["schema"]["openAPIV3Schema"]
    return found


async def _each(work: list[Any], do: Any) -> None:
    """All of the work, a few at a time."""
    waiting = list(work)

    async def one() -> None:
        while waiting:
            await do(waiting.pop())

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(one())


async def _answered(kube: Kube, kind: str, names: set[str]) -> None:
    """Wait until every one of these has a status of its own generation."""
    silent = set(names)

    async def none_silent() -> bool:
        for obj in await kube.list(kind):
            ready = condition(obj, "Ready")
            if ready and ready["observedGeneration"] == obj["metadata"]["generation"]:
                assert ready["reason"] and ready["message"]
                silent.discard(obj["metadata"]["name"])
        return not silent

    await until(none_silent, f"every {kind} has a status", lambda: sorted(silent)[:5])


async def test_no_manifest_makes_the_operator_fail(kube: Kube, start: Start) -> None:
    operator = await start()
    chance, schemas, taken = random.Random(SEED), _schemas(), 0
    bases = list(CORPUS["base"].values())
    for batch in range(0, COUNT, BATCH):
        admitted: dict[str, set[str]] = {kind: set() for kind in schemas}
        offered = []
        for number in range(batch, min(batch + BATCH, COUNT)):
            base = chance.choice(bases)
            changed = mutated(base, schemas[base["kind"]], chance)
            offered.append({**changed, "metadata": {"name": f"m{number}"}})

        async def offer(obj: Object, admitted: dict[str, set[str]] = admitted) -> None:
            try:
                await kube.create(obj)
            except (InvalidObjectError, ConflictError):
                return
            admitted[obj["kind"]].add(obj["metadata"]["name"])

        await _each(offered, offer)
        for kind, names in admitted.items():
            await _answered(kube, kind, names)

            async def forget(name: str, kind: str = kind) -> None:
                await kube.delete(kind, name)

            await _each(sorted(names), forget)
            taken += len(names)
        for kind in schemas:
            failed = await operator.metric(
                f'controller_runtime_reconcile_errors_total{{controller="{kind}"}}'
            )
            assert failed == 0, operator.log.read_text()[-5000:]
    assert COUNT / 20 < taken < COUNT, "some are let in, some are not"


def test_the_manifests_are_the_same_each_time() -> None:
    base, schema = CORPUS["base"]["study"], _schemas()["FederatedStudy"]
    once, again = (
        [mutated(base, schema, chance) for _ in range(50)] for chance in (random.Random(1), random.Random(1))
    )
    assert once == again
    assert len({str(made) for made in once}) > 45
