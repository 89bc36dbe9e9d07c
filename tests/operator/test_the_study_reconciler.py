"""The hub's half: what a FederatedStudy becomes, who gets a certificate, and what its status says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from fedstudy.errors import ConnectionLostError
from fedstudy.identity import Identity, Role
from fedstudy.wire.admin import (
    AcceptEnrolment,
    AggregatorState,
    PendingEnrolment,
    Phase,
    RefuseEnrolment,
    SetSites,
    SiteState,
    Suspend,
)
from fedstudy.wire.credentials import certificate_identity
from fedstudy_operator.api import FederatedStudy, Reason
from fedstudy_operator.children.common import Settings, decode, encode
from fedstudy_operator.children.study import owner_of
from fedstudy_operator.cluster import Key, NotFoundError, Object
from fedstudy_operator.local.store import LocalCluster
from fedstudy_operator.pki import make_authority
from fedstudy_operator.reconcile.admin import AnyDecision, AnyState, Endpoint
from fedstudy_operator.reconcile.certificates import Certificates, Leaf, fingerprint
from fedstudy_operator.reconcile.study import StudyReconciler
from fedstudy_operator.reconcile.study_status import bucket

KEY = Key("FederatedStudy", "hub", "glioma")


class FakePeers:
    """An aggregator that says what the test wants, and remembers what it was told."""

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
        "spec": {
            "purpose": "DUO:0000007",
            "task": {
                "type": "Classification",
                "covariates": [{"name": "age"}],
                "target": {"label": "idh", "classes": ["wildtype", "mutant"]},
            },
            "model": {"network": {"name": "Linear"}},
            "training": {"localEpochs": 1, "optimizer": {"learningRate": 0.1}},
            "federation": {"rounds": 2, "minSites": 2},
            "sites": [{"name": "north"}, {"name": "south", "required": True}],
            **spec,
        },
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


@pytest.fixture
def hub() -> Hub:
    return Hub()


def condition(status: dict[str, Any], kind: str) -> tuple[str, str]:
    found = next((c for c in status["conditions"] if c["type"] == kind), {"status": "absent", "reason": ""})
    return found["status"], found["reason"]


def csr() -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode(), "f" * 64


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


async def test_the_authority_is_never_made_again_and_a_lost_child_comes_back(hub: Hub) -> None:
    await hub.apply()
    first = await hub.step()
    await hub.cluster.delete(Key("Secret", "hub", "glioma-aggregator-tls"))
    await hub.cluster.delete(Key("Service", "hub", "glioma-aggregator"))
    hub.reconciler.doubt(KEY)  # as the event of the Secret does
    again = await hub.step()
    assert again["caFingerprint"] == first["caFingerprint"]
    served = decode(await hub.cluster.get(Key("Secret", "hub", "glioma-aggregator-tls")))
    assert (
        served["ca.crt"] == decode(await hub.cluster.get(Key("Secret", "hub", "glioma-authority")))["tls.crt"]
    )
    await hub.cluster.get(Key("Service", "hub", "glioma-aggregator"))


async def _lose(hub: Hub) -> tuple[Object, str]:
    """The authority's Secret is deleted, and an event tells of it; returns it, and its fingerprint."""
    key = Key("Secret", "hub", "glioma-authority")
    secret = await hub.cluster.get(key)
    await hub.cluster.delete(key)
    hub.reconciler.doubt(KEY)
    return secret, (await hub.cluster.get(KEY))["status"]["caFingerprint"]


async def _restore(hub: Hub, secret: Object) -> None:
    kept = ("name", "namespace", "labels", "ownerReferences", "annotations")
    metadata = {name: value for name, value in secret["metadata"].items() if name in kept}
    await hub.cluster.apply({**secret, "metadata": metadata}, manager="backup")
    hub.reconciler.doubt(KEY)


async def test_a_lost_authority_is_not_replaced_and_who_has_a_certificate_goes_on(hub: Hub) -> None:
    """Bad input: a deleted Secret ends in a typed condition, with what can be done about it."""
    await hub.apply()
    await hub.serve_at_once(Phase.TRAINING)
    secret, trusted = await _lose(hub)
    status = await hub.step()
    assert condition(status, "CertificatesReady") == ("False", Reason.AUTHORITY_LOST)
    message = next(c["message"] for c in status["conditions"] if c["type"] == "CertificatesReady")
    assert "glioma-authority is gone" in message
    assert f"fedstudy.io/replace-authority={trusted}" in message
    assert condition(status, "Ready") == ("True", Reason.RUNNING)
    assert status["caFingerprint"] == trusted
    assert fingerprint(hub.peers.endpoints[KEY].authority) == trusted
    with pytest.raises(NotFoundError):
        await hub.cluster.get(Key("Secret", "hub", "glioma-authority"))
    await _restore(hub, secret)
    status = await hub.step()
    assert condition(status, "CertificatesReady") == ("True", Reason.ISSUED)
    assert status["caFingerprint"] == trusted


async def test_a_study_that_needs_its_lost_authority_is_stalled(hub: Hub) -> None:
    """The aggregator's certificate is gone too: nobody can make another."""
    await hub.apply()
    await hub.step()
    secret, trusted = await _lose(hub)
    await hub.cluster.delete(Key("Secret", "hub", "glioma-aggregator-tls"))
    status = await hub.step()
    for kind, word in (("Ready", "False"), ("Stalled", "True"), ("CertificatesReady", "False")):
        assert condition(status, kind) == (word, Reason.AUTHORITY_LOST)
    hub.reconciler = StudyReconciler(hub.cluster, hub.peers, Settings())  # a new operator thinks the same
    assert condition(await hub.step(), "Stalled") == ("True", Reason.AUTHORITY_LOST)
    await _restore(hub, secret)
    status = await hub.step()
    assert condition(status, "CertificatesReady")[0] == "True"
    served = decode(await hub.cluster.get(Key("Secret", "hub", "glioma-aggregator-tls")))
    assert fingerprint(served["ca.crt"]) == trusted == status["caFingerprint"]


@pytest.mark.parametrize("spoilt", ["another", "rubbish", "another key"])
async def test_an_authority_that_is_not_the_trusted_one_signs_nothing(hub: Hub, spoilt: str) -> None:
    """Somebody who may write Secrets does not become the study's authority."""
    await hub.apply()
    first = await hub.step()
    secret, trusted = await _lose(hub)
    other = make_authority("another", 10)
    files = {"tls.crt": other.certificate_pem, "tls.key": other.key_pem}
    if spoilt == "rubbish":
        files = {"tls.crt": "rubbish", "tls.key": "rubbish"}
    elif spoilt == "another key":
        files["tls.crt"] = decode(secret)["tls.crt"]
    await _restore(hub, {**secret, "data": encode(files)})
    request, key = csr()
    labels = (await hub.invitation("north"))["metadata"]["labels"]
    pending = PendingEnrolment(
        invitation=labels["fedstudy.io/invitation"], key_fingerprint=key, csr_pem=request
    )
    hub.says(pending=[pending])
    status = await hub.step()
    assert condition(status, "CertificatesReady") == ("False", Reason.AUTHORITY_LOST)
    assert condition(status, "Ready") == (
        "False",
        Reason.AUTHORITY_LOST,
    )  # it waits for sites that cannot join
    assert status["caFingerprint"] == trusted == first["caFingerprint"]
    assert not [d for d in hub.peers.told if isinstance(d, AcceptEnrolment | RefuseEnrolment)]
    await _restore(hub, secret)
    await hub.step()
    assert isinstance(hub.peers.told[-1], AcceptEnrolment)  # the request had stayed open


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "leaked"])
async def test_a_person_can_have_the_authority_replaced_and_every_site_is_invited_anew(
    hub: Hub, lost: bool
) -> None:
    await hub.apply()
    before = (await hub.step())["caFingerprint"]
    old = {site: await hub.invitation(site) for site in ("north", "south")}
    if lost:
        await _lose(hub)
    await hub.annotate("sha256:" + "0" * 64)  # of no authority that this study has
    assert (await hub.step())["caFingerprint"] == before
    await hub.annotate(before)
    status = await hub.step()
    assert condition(status, "CertificatesReady") == ("True", Reason.ISSUED)
    after = status["caFingerprint"]
    assert after != before
    for name in ("aggregator-tls", "operator-tls", "invitation-north", "invitation-south"):
        files = decode(await hub.cluster.get(Key("Secret", "hub", f"glioma-{name}")))
        assert fingerprint(files["ca.crt"]) == after
    for site, secret in old.items():
        assert (await hub.invitation(site))["metadata"]["labels"] != secret["metadata"]["labels"]
    assert (await hub.step())["caFingerprint"] == after  # the annotation stays, and has no more to say
    hub.reconciler = StudyReconciler(hub.cluster, hub.peers, Settings())
    hub.reconciler.doubt(KEY)
    assert (await hub.step())["caFingerprint"] == after


async def test_a_replacement_that_was_broken_off_is_not_begun_anew(hub: Hub) -> None:
    """The operator is killed after it made the authority and before its status was written."""
    await hub.apply()
    status = await hub.step()
    await hub.annotate(status["caFingerprint"])
    after = (await hub.step())["caFingerprint"]
    await hub.cluster.patch_status(KEY, status, manager="fedstudy-operator-status")
    hub.reconciler = StudyReconciler(hub.cluster, hub.peers, Settings())
    assert (await hub.step())["caFingerprint"] == after


async def test_a_pod_that_has_its_node_and_does_not_run_may_lack_a_secret(hub: Hub) -> None:
    """Where no event tells of Secrets: a new operator believes what the last one found, but not of a pod that is kept from running."""
    await hub.apply()
    await hub.step()
    lost = Key("Secret", "hub", "glioma-aggregator-tls")
    await hub.cluster.delete(lost)
    hub.reconciler = StudyReconciler(hub.cluster, hub.peers, Settings())
    await hub.step()
    with pytest.raises(NotFoundError):
        await hub.cluster.get(lost)
    await hub.schedule()
    again = await hub.reconciler.reconcile(KEY)
    assert await hub.cluster.get(lost)
    assert again is not None
    assert again <= 30  # it may be lost once more, and no event tells why a pod waits for its volumes


async def test_a_deleted_study_takes_its_children_along(hub: Hub) -> None:
    await hub.apply()
    await hub.step()
    await hub.cluster.delete(KEY)
    assert await hub.reconciler.reconcile(KEY) is None
    assert await hub.cluster.list("Secret") == []
    assert hub.peers.endpoints == {}


async def test_an_enrolment_is_signed_once_and_its_invitation_is_burnt(hub: Hub) -> None:
    await hub.apply()
    await hub.step()
    labels = (await hub.invitation("north"))["metadata"]["labels"]
    request, fingerprint = csr()
    pending = PendingEnrolment(
        invitation=labels["fedstudy.io/invitation"], key_fingerprint=fingerprint, csr_pem=request
    )
    hub.says(pending=[pending])
    await hub.step()
    (accepted,) = [d for d in hub.peers.told if isinstance(d, AcceptEnrolment)]
    assert accepted.site == "north"
    certificate = x509.load_pem_x509_certificate(accepted.certificate_pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uid = (await hub.cluster.get(KEY))["metadata"]["uid"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        f"spiffe://fedstudy/study/{uid}/site/north"
    ]
    burnt = await hub.invitation("north")
    assert burnt["metadata"]["annotations"]["fedstudy.io/used-by"] == fingerprint

    hub.says(pending=[pending.model_copy(update={"key_fingerprint": "e" * 64})])
    await hub.step()
    assert isinstance(hub.peers.told[-1], RefuseEnrolment)
    assert "used already" in hub.peers.told[-1].reason
    hub.says(pending=[pending])  # the same key again, after a crash: the same answer
    await hub.step()
    assert isinstance(hub.peers.told[-1], AcceptEnrolment)


async def test_a_renewal_is_signed_for_the_key_that_enrolled_and_for_a_listed_site(hub: Hub) -> None:
    await hub.apply()
    await hub.step()
    labels = (await hub.invitation("north"))["metadata"]["labels"]
    request, key = csr()
    first = PendingEnrolment(
        invitation=labels["fedstudy.io/invitation"], key_fingerprint=key, csr_pem=request
    )
    renewal = PendingEnrolment(
        invitation="renewal/north", key_fingerprint=key, csr_pem=request, renews="north"
    )
    hub.says(pending=[renewal])
    await hub.step()
    assert isinstance(hub.peers.told[-1], RefuseEnrolment)  # nobody has enrolled yet
    hub.says(pending=[first])
    await hub.step()
    burnt = await hub.invitation("north")
    hub.says(pending=[renewal])
    await hub.step()
    accepted = hub.peers.told[-1]
    assert isinstance(accepted, AcceptEnrolment)
    assert (accepted.invitation, accepted.site) == ("renewal/north", "north")
    assert certificate_identity(accepted.certificate_pem).name == "north"
    assert await hub.invitation("north") == burnt
    for change in ({"key_fingerprint": "e" * 64}, {"renews": "south"}, {"renews": "east"}):
        hub.says(pending=[renewal.model_copy(update=change)])
        await hub.step()
        assert isinstance(hub.peers.told[-1], RefuseEnrolment), change


async def test_a_stranger_and_a_withdrawn_site_are_refused(hub: Hub) -> None:
    await hub.apply()
    await hub.step()
    south = (await hub.invitation("south"))["metadata"]["labels"]["fedstudy.io/invitation"]
    await hub.apply(sites=[{"name": "north"}], federation={"rounds": 2})
    request, fingerprint = csr()
    pending = [
        PendingEnrolment(invitation=i, key_fingerprint=fingerprint, csr_pem=request)
        for i in ("stranger", south)
    ]
    hub.says(pending=pending)
    await hub.step()
    assert [type(d) for d in hub.peers.told if not isinstance(d, SetSites | Suspend)] == [RefuseEnrolment] * 2
    assert SetSites(sites=["north"]) in hub.peers.told


async def test_a_request_that_is_no_request_is_refused_with_its_fault(hub: Hub) -> None:
    await hub.apply()
    await hub.step()
    labels = (await hub.invitation("north"))["metadata"]["labels"]
    hub.says(
        pending=[
            PendingEnrolment(
                invitation=labels["fedstudy.io/invitation"], key_fingerprint="a" * 64, csr_pem="nonsense"
            )
        ]
    )
    await hub.step()
    assert isinstance(hub.peers.told[-1], RefuseEnrolment)
    assert "annotations" not in (await hub.invitation("north"))["metadata"]


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
