"""A hub with one study whose aggregator says what the test wants, reconciled by hand."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from tests import small_study

from fedstudy.errors import ConnectionLostError
from fedstudy.wire.admin import (
    AggregatorState,
    Phase,
    SiteState,
)
from fedstudy_operator.children.common import Settings
from fedstudy_operator.cluster import Key, Object
from fedstudy_operator.local.store import LocalCluster
from fedstudy_operator.reconcile.admin import AnyDecision, AnyState, Endpoint
from fedstudy_operator.reconcile.study import StudyReconciler

KEY = Key("FederatedStudy", "hub", "glioma")


class FakePeers:
    """Processes that say what the test wants, and remember what they were told."""

    def __init__(self) -> None:
        self.states: dict[Key, AnyState] = {}
        self.told: list[AnyDecision] = []
        self.endpoints: dict[Key, Endpoint] = {}

    def follow(self, owner: Key, endpoint: Endpoint) -> None:
        self.endpoints[owner] = endpoint

    def forget(self, owner: Key) -> None:
        self.endpoints.pop(owner, None)

    def state(self, owner: Key) -> AnyState | None:
        return self.states.get(owner)

    def epoch(self, owner: Key) -> int:
        return 1 if owner in self.states else 0

    def problem(self, owner: Key) -> str:
        return "" if owner in self.states else "not connected yet"

    async def decide(self, owner: Key, decision: AnyDecision) -> None:
        if owner not in self.states:
            raise ConnectionLostError("not now")
        self.told.append(decision)


def manifest(**spec: Any) -> Object:
    return {
        "apiVersion": "fedstudy.io/v1alpha1",
        "kind": "FederatedStudy",
        "metadata": {"name": "glioma", "namespace": "hub"},
        "spec": small_study.spec(
            federation={"rounds": 2, "minSites": 2},
            sites=[{"name": "north"}, {"name": "south", "required": True}],
        )
        | spec,
    }


class Hub:
    """A cluster with one study, reconciled by hand."""

    def __init__(self) -> None:
        self.cluster = LocalCluster()
        self.peers = FakePeers()
        self.reconciler = StudyReconciler(self.cluster, self.peers, Settings())

    async def apply(self, **spec: Any) -> None:
        await self.cluster.apply(manifest(**spec), manager="user")

    async def step(self) -> dict[str, Any]:
        await self.reconciler.reconcile(KEY)
        status: dict[str, Any] = (await self.cluster.get(KEY))["status"]
        return status

    def says(self, phase: Phase = Phase.WAITING_FOR_SITES, **fields: Any) -> None:
        self.peers.states[KEY] = AggregatorState(phase=phase, plan_digest="sha256:x", rounds=2, **fields)

    async def serve(self) -> None:
        """The aggregator's pod becomes ready."""
        key = Key("StatefulSet", "hub", "glioma-aggregator")
        await self.cluster.patch_status(key, {"readyReplicas": 1}, manager="kubelet")

    async def serve_at_once(self, phase: Phase) -> None:
        """The aggregator is there, and both sites with it."""
        await self.step()
        sites = [SiteState(name=n, connected=True, state="Training") for n in ("north", "south")]
        self.says(phase, round=1, sites=sites)
        await self.serve()
        await self.step()

    async def annotate(self, fingerprint: str) -> None:
        """A person asks for another authority."""
        wanted = manifest()
        wanted["metadata"]["annotations"] = {"fedstudy.io/replace-authority": fingerprint}
        await self.cluster.apply(wanted, manager="user")

    async def schedule(self) -> None:
        """The aggregator's pod has its node, and does not run."""
        workload = await self.cluster.get(Key("StatefulSet", "hub", "glioma-aggregator"))
        labels = workload["spec"]["template"]["metadata"]["labels"]
        metadata = {"name": "glioma-aggregator-0", "namespace": "hub", "labels": labels}
        await self.cluster.apply(
            {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}, manager="controller"
        )
        conditions = [{"type": "PodScheduled", "status": "True"}]
        await self.cluster.patch_status(
            Key("Pod", "hub", "glioma-aggregator-0"), {"conditions": conditions}, manager="kubelet"
        )

    async def invitation(self, site: str) -> Object:
        return await self.cluster.get(Key("Secret", "hub", f"glioma-invitation-{site}"))


def condition(status: dict[str, Any], kind: str) -> tuple[str, str]:
    found = next((c for c in status["conditions"] if c["type"] == kind), {"status": "absent", "reason": ""})
    return found["status"], found["reason"]


def csr() -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode(), "f" * 64
