"""A study's authority is made once: what is lost comes back, or is said to be lost, and only a person has it replaced."""

from __future__ import annotations

import pytest
from tests.operator.hub import KEY, Hub, condition, csr

from fedstudy.wire.admin import (
    AcceptEnrolment,
    PendingEnrolment,
    Phase,
    RefuseEnrolment,
)
from fedstudy_operator.api import Reason
from fedstudy_operator.children.common import Settings, decode, encode
from fedstudy_operator.cluster import Key, NotFoundError, Object
from fedstudy_operator.pki import make_authority
from fedstudy_operator.reconcile.certificates import fingerprint
from fedstudy_operator.reconcile.study import StudyReconciler


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
