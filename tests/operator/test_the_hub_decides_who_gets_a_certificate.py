"""Who gets a certificate: whoever holds an invitation, once, and the same key again when it is to be renewed."""

from __future__ import annotations

from cryptography import x509
from tests.operator.hub import KEY, Hub, csr

from fedstudy.wire.admin import (
    AcceptEnrolment,
    PendingEnrolment,
    RefuseEnrolment,
    SetSites,
    Suspend,
)
from fedstudy.wire.credentials import certificate_identity


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
