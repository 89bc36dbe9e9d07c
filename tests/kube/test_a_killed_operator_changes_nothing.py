"""Checklist G, point 8: the operator is killed (SIGKILL) at 50 random moments of studies, and nobody could tell afterwards.

Aggregators and agents are real processes, Jobs and StatefulSets belong to Kubernetes' own controllers, trainers answer without torch.
One namespace is left in peace, in the other a new operator is killed again and again: after so many of its writes as the audit log
tells, or after so long. When the kills are used up, the last one finishes the studies.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import random
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.control_plane import ControlPlane
from tests.crash.mortal import Nursery, nursery
from tests.kube import conftest as tools
from tests.kube.conftest import Kube, condition, until
from tests.kube.machine import LoopbackPlane, machine

from fedstudy_operator.api.meta import GROUP
from fedstudy_operator.children.trainer import WORK
from fedstudy_operator.cluster import Object
from fedstudy_operator.kube.informer import Informer
from fedstudy_operator.kube.watches import OURS
from fedstudy_operator.reconcile.causes import job_end

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

KILLS, SEED = 50, 8
SITES = ("hospital-a", "hospital-b")
RELEASES = ("BetweenRounds", "Never")
AT_ONCE = 2
"""Studies that share the kills; when one is over, another begins."""
WRITES, SECONDS = 16, 4.0
"""At most so many writes, or so long, lives an operator that is to be killed."""
CHILDREN = ("ConfigMap", "Secret", "Service", "NetworkPolicy", "PodDisruptionBudget", "StatefulSet", "Job")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane whose Services are addresses of this machine."""
    with tools.a_plane(LoopbackPlane, tmp_path_factory.mktemp("plane")) as made:
        yield made


async def test_an_operator_killed_at_fifty_moments_leaves_what_an_undisturbed_one_leaves(
    plane: ControlPlane, kube: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checklist G, point 8: same final state, no Job made twice, never two trainers of a site at once."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    wanted = await undisturbed(plane, tmp_path / "peace")
    async with machine(kube, tmp_path / "war"), life(plane, kube, tmp_path / "war") as war:
        studies = await disturbed(kube, war, random.Random(SEED))
        await war.operator()
        for name in studies:
            await over(kube, name, war)
            await same(kube, name, wanted)
        print(f"{KILLS} kills (seed {SEED}) in {len(studies)} studies; {war.moments}")
    assert war.jobs.faults == []
    made = Counter(name for resource, name in war.creations() if resource == "jobs")
    assert made
    assert {name: times for name, times in made.items() if times > 1} == {}


async def undisturbed(plane: ControlPlane, folder: Path) -> str:
    """What is left of a study whose operator nobody disturbs."""
    async with (
        tools.namespace(plane, "peace") as kube,
        machine(kube, folder),
        life(plane, kube, folder) as peace,
    ):
        await begin(kube, "glioma-0")
        await peace.operator()
        await over(kube, "glioma-0", peace)
        return await lasting(kube, "glioma-0")


async def disturbed(kube: Kube, war: Life, chance: random.Random) -> list[str]:
    """Kill operators until the kills are used up; the names of the studies that went through it."""
    studies: list[str] = []
    for _ in range(KILLS):
        running = [name for name in studies if not await is_over(kube, name)]
        for _ in range(AT_ONCE - len(running)):
            studies.append(f"glioma-{len(studies)}")
            await begin(kube, studies[-1])
        await war.operator()
        war.moments.update([await _phase(kube, name) for name in studies[-1:]])
        await war.kill(writes=chance.randint(0, WRITES), seconds=chance.uniform(0, SECONDS))
    return studies


@dataclass
class Life:
    """A namespace's operators, one after the other, and all that is known of what they did."""

    plane: ControlPlane
    nursery: Nursery
    environment: dict[str, str]
    account: str
    jobs: Jobs
    begun_at: int
    moments: Counter[str] = field(default_factory=Counter)
    _living: Any = None
    _at: int = 0

    async def operator(self) -> None:
        """The next one starts."""
        self._at = self.plane.audit_log.stat().st_size
        self._living = await self.nursery.start(self.environment)

    def check(self) -> None:
        """Fail where the present one has ended by itself."""
        assert not self._living.ended.done(), f"an operator ended by itself: {self._living.ended.result()}"

    async def kill(self, *, writes: int, seconds: float) -> None:
        """SIGKILL after so many writes, or after so long."""
        end = asyncio.get_running_loop().time() + seconds
        while len(self._written(self._at)) < max(1, writes):
            if asyncio.get_running_loop().time() > end:
                break
            await asyncio.sleep(0.01)
        self.check()
        number = len(self._written(self._at))
        self._living.signal(signal.SIGKILL)
        await self._living.ended
        self.moments["after a write" if number else "before its first write"] += 1

    def creations(self) -> list[tuple[str, str]]:
        """Resource and name of all that the operators created."""
        return [
            (entry["objectRef"]["resource"], entry["objectRef"]["name"])
            for entry in self._written(self.begun_at)
            if entry["responseStatus"]["code"] == 201 and "name" in entry["objectRef"]
        ]

    def _written(self, at: int) -> list[Object]:
        """Requests to write since a place in the audit log, but for the Lease."""
        with self.plane.audit_log.open("rb") as log:
            log.seek(at)
            lines = log.read().rpartition(b"\n")[0].splitlines()
        entries = [json.loads(line) for line in lines]
        return [
            entry
            for entry in entries
            if entry["user"]["username"] == self.account
            and entry["verb"] in ("create", "patch", "update", "delete")
            and entry["objectRef"]["resource"] != "leases"
        ]


@asynccontextmanager
async def life(plane: ControlPlane, kube: Kube, folder: Path) -> AsyncIterator[Life]:
    """Where the operators of a namespace are born; no two live at once."""
    token = await kube.account("operator")
    config = plane.token_kubeconfig(f"{kube.namespace}-operator", token)
    environment = tools.Operator(folder, config, kube.namespace).environment
    account = f"system:serviceaccount:{kube.namespace}:operator"
    jobs = Jobs()
    watching = asyncio.create_task(
        Informer(kube.api, "Job", kube.namespace, OURS, jobs.saw).run(), name="watch Jobs"
    )
    async with nursery("fedstudy_operator.kube", folder / "operators", environment=environment) as born:
        yield Life(plane, born, environment, account, jobs, plane.audit_log.stat().st_size)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


class Jobs:
    """A watch over all Jobs: never two trainers of a site at once, and one for each piece of work."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._alive: dict[str, dict[str, str]] = {}
        self._served: dict[tuple[str, str], str] = {}

    async def saw(self, job: Object, gone: bool) -> None:
        """A Job as it is now."""
        metadata = job["metadata"]
        labels, name = metadata["labels"], metadata["name"]
        if labels["app.kubernetes.io/component"] != "trainer":
            return
        who = labels[f"{GROUP}/participant"]
        alive = self._alive.setdefault(who, {})
        if gone or job_end(job) or metadata.get("deletionTimestamp"):
            alive.pop(name, None)
            return
        alive[name] = metadata["uid"]
        if len(alive) > 1:
            self.faults.append(f"{who} has several trainers at once: {sorted(alive)}")
        served = self._served.setdefault((who, labels[WORK]), metadata["uid"])
        if served != metadata["uid"]:
            self.faults.append(f"{who} has a second trainer for one work: {name}")


async def begin(kube: Kube, name: str) -> None:
    """A study with two hospitals in the same namespace: one gives its place back between rounds, the other does not."""
    covariates = [{"name": "age"}, {"name": "kps"}]
    target = {"label": "idh", "classes": ["wildtype", "mutant"]}
    task = {"type": "Classification", "covariates": covariates, "target": target}
    policy = {
        "purposes": ["DUO:0000007"], "algorithms": ["*"], "networks": ["*"], "minSites": 2,
        "requireSecureAggregation": False, "images": ["*"],
    }  # fmt: skip
    await kube.create(tools.study(name, SITES, task=task))
    for site, release in zip(SITES, RELEASES, strict=True):
        made = tools.dataset(f"{name}-{site}")
        made["spec"] = {"volume": {"persistentVolumeClaim": "scans"}, "policy": policy}
        await kube.create(made)
        await kube.create(
            tools.participant(
                kube.namespace, site, name,
                datasetRef=f"{name}-{site}", approval={"mode": "Automatic"}, trainer={"release": release},
            )
        )  # fmt: skip


async def is_over(kube: Kube, name: str) -> bool:
    """Whether a study is complete."""
    obj = await kube.get("FederatedStudy", name)
    return obj is not None and condition(obj, "Complete").get("status") == "True"


async def same(kube: Kube, name: str, wanted: str) -> None:
    """Wait until what is left of a study is what is wanted; fails with what differs."""
    found: list[str] = []

    async def equal() -> bool:
        found[:] = [await lasting(kube, name)]
        return found[0] == wanted

    await until(equal, f"{name} as in peace", lambda: difference(wanted, found[0]))


async def _phase(kube: Kube, name: str) -> str:
    """How far a study is."""
    obj = await kube.get("FederatedStudy", name) or {}
    return f"{condition(obj, 'Ready').get('reason')} {(obj.get('status') or {}).get('columns', {}).get('round', '')}"


async def over(kube: Kube, name: str, operators: Life) -> None:
    """Wait until a study is complete, and its hospitals say so, and no trainer is left."""

    async def ended() -> bool:
        operators.check()
        sites = [await kube.get("SiteParticipant", f"{name}-{site}") for site in SITES]
        told = all(site is not None and _has_nothing_to_do(site) for site in sites)
        return told and await is_over(kube, name) and not await _trainers(kube, name)

    async def show() -> list[Object]:
        return [
            {"name": obj["metadata"]["name"], "status": obj.get("status")}
            for kind in ("FederatedStudy", "SiteParticipant")
            for obj in await kube.list(kind)
        ]

    try:
        await until(ended, f"{name} is complete")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{yaml.safe_dump(await show())}") from None


def _has_nothing_to_do(site: Object) -> bool:
    """Complete, and its last trainer is forgotten."""
    complete = condition(site, "Complete").get("status") == "True"
    return complete and condition(site, "ComputeAvailable").get("reason") == "NoWork"


async def _trainers(kube: Kube, name: str) -> list[str]:
    jobs = await kube.list("Job", **{"app.kubernetes.io/component": "trainer"})
    return [job["metadata"]["name"] for job in jobs if job["metadata"]["name"].startswith(f"{name}-")]


async def lasting(kube: Kube, name: str) -> str:
    """All that is left of a study, without times and without what is random in every study: names, digests, keys."""
    found: list[Object] = []
    for kind in ("FederatedStudy", "SiteParticipant", "SiteDataset", *CHILDREN):
        for obj in await kube.list(kind):
            if obj["metadata"]["name"].startswith(f"{name}-") or obj["metadata"]["name"] == name:
                found.append(_left(kind, obj))
    found.sort(key=lambda obj: (obj["kind"], obj["name"]))
    return _anonymous(yaml.safe_dump_all(found), name, kube.namespace)


def _left(kind: str, obj: Object) -> Object:
    metadata = obj["metadata"]
    left: Object = {
        "kind": kind,
        "name": metadata["name"],
        "labels": metadata.get("labels") or {},
        "owners": [owner["name"] for owner in metadata.get("ownerReferences") or []],
        "spec": obj.get("spec"),
    }
    if kind in ("FederatedStudy", "SiteParticipant", "SiteDataset"):
        left["status"] = obj.get("status")
        return left
    annotations = metadata.get("annotations") or {}
    left["annotations"] = sorted(annotations)
    if kind == "Service":
        left["spec"] = {n: v for n, v in obj["spec"].items() if n not in ("clusterIP", "clusterIPs")}
    if kind in ("Secret", "ConfigMap"):
        left["data"] = sorted(obj["data"]) if kind == "Secret" else obj["data"]
    return left


_RANDOM: tuple[tuple[str, str], ...] = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID"),
    (r"\b[0-9a-f]{64}\b", "DIGEST"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)", "TIME"),
    (r"-preflight-[0-9a-f]{10}", "-preflight-PLAN"),
    (r"(hospital-[ab])-[0-9a-f]{8}\b", r"\1-INVITATION"),
)


def _anonymous(text: str, name: str, namespace: str) -> str:
    for pattern, word in _RANDOM:
        text = re.sub(pattern, word, text)
    return text.replace(namespace, "NAMESPACE").replace(name, "NAME")


def difference(wanted: str, found: str) -> str:
    """What differs, with some lines around it."""
    return "\n".join(difflib.unified_diff(wanted.splitlines(), found.splitlines(), "in peace", "killed", n=8))
