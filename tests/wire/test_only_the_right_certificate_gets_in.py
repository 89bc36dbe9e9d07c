"""Who may connect and call: every refusal is typed for the caller and recorded by the listener."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from fedstudy.errors import ConnectionLostError, RefusedError
from fedstudy.identity import Identity, Role
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire import federation_pb2_grpc as rpc
from fedstudy.wire.channel import TLSFiles
from fedstudy.wire.status import from_rpc_error
from fedstudy_operator.pki import make_authority

SITE = Identity("hub.example", "study", "study-1", Role.SITE, "hospital-a")
INVITATION = Identity("hub.example", "study", "study-1", Role.INVITATION, "inv-1")
OTHERS = {
    "another study": Identity("hub.example", "study", "study-2", Role.SITE, "hospital-a"),
    "another trust domain": Identity("elsewhere.example", "study", "study-1", Role.SITE, "hospital-a"),
    "a participant of the same uid": Identity("hub.example", "participant", "study-1", Role.TRAINER),
    "another role": INVITATION,
    "the operator": Identity("hub.example", "study", "study-1", Role.OPERATOR),
}


async def test_a_site_of_the_study_may_call(study: Any) -> None:
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as stub:
        assert (await stub.Offer(pb.OfferRequest())).digest == "sha256:offered"
        assert [one.id async for one in stub.Follow(pb.FollowRequest())] == ["0001-000-train-hospital-a"]
        assert aggregator.refusals == []


async def test_an_invitation_may_enroll_and_nothing_else(study: Any, raises: Any) -> None:
    async with (
        study.aggregator() as aggregator,
        study.stub(aggregator.target, study.client(INVITATION)) as stub,
    ):
        assert (await stub.Enroll(pb.EnrollRequest())).certificate_pem == "signed"
        with raises(grpc.StatusCode.PERMISSION_DENIED):
            await stub.Offer(pb.OfferRequest())


@pytest.mark.parametrize("who", OTHERS)
@pytest.mark.parametrize("method", ["Offer", "Follow", "Fetch", "Submit"])
async def test_an_identity_that_does_not_belong_here_is_refused_and_recorded(
    study: Any, who: str, method: str
) -> None:
    identity = OTHERS[who]
    async with (
        study.aggregator() as aggregator,
        study.stub(aggregator.target, study.client(identity)) as stub,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            if method == "Offer":
                await stub.Offer(pb.OfferRequest())
            elif method == "Submit":
                await stub.Submit(iter([pb.SubmitRequest()]))
            else:
                request = pb.FollowRequest() if method == "Follow" else pb.FetchRequest()
                async for _ in getattr(stub, method)(request):
                    pass
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        error = from_rpc_error(caught.value)
        assert isinstance(error, RefusedError) and identity.uri() in error.message and error.remedy
        (refusal,) = aggregator.refusals
        assert (refusal.peer, refusal.method) == (identity.uri(), f"/fedstudy.v1.Federation/{method}")
        assert refusal.reason == error.message and refusal.time.endswith("Z")


async def test_a_method_that_no_rule_names_is_refused(study: Any, raises: Any) -> None:
    async with study.aggregator() as aggregator:
        async with study.stub(aggregator.target) as stub:
            with raises(grpc.StatusCode.PERMISSION_DENIED):
                await stub.Enroll(pb.EnrollRequest())
        assert len(aggregator.refusals) == 1


@pytest.mark.parametrize(
    "fault, reason",
    [
        ("none", "no client certificate"),
        ("expired", "certificate expired"),
        ("foreign", "certificate of another authority"),
        ("server's", "certificate for another purpose"),
    ],
)
async def test_a_handshake_that_fails_is_recorded_with_its_reason(
    study: Any, raises: Any, eventually: Any, fault: str, reason: str
) -> None:
    async with study.aggregator() as aggregator:
        tls: TLSFiles = aggregator.tls
        if fault == "expired":
            tls = study.client(days=-1)
        elif fault == "foreign":
            tls = study.client(signer=make_authority("study-1", days=1))
        certificate, key, authority = tls.read()
        if fault == "none":
            credentials = grpc.ssl_channel_credentials(authority)
        else:
            credentials = grpc.ssl_channel_credentials(authority, key, certificate)
        options = [("grpc.ssl_target_name_override", "aggregator"), ("grpc.enable_http_proxy", 0)]
        async with grpc.aio.secure_channel(aggregator.target, credentials, options) as channel:
            with raises(grpc.StatusCode.UNAVAILABLE) as caught:
                await rpc.FederationStub(channel).Offer(pb.OfferRequest(), timeout=20)
        assert isinstance(from_rpc_error(caught.value), ConnectionLostError)
        await eventually(lambda: aggregator.refusals, "the record of the failed handshake")
        assert {refusal.reason for refusal in aggregator.refusals} == {reason}
        assert {refusal.method for refusal in aggregator.refusals} == {""}


async def test_a_site_cannot_pose_as_the_aggregator(study: Any, raises: Any) -> None:
    async with study.aggregator(study.client()) as impostor, study.stub(impostor.target) as stub:
        with raises(grpc.StatusCode.UNAVAILABLE):
            await stub.Offer(pb.OfferRequest(), timeout=20)


async def test_a_server_of_another_study_is_not_trusted(study: Any, raises: Any) -> None:
    other = make_authority("study-1", days=1)
    async with study.aggregator() as aggregator:
        tls = study.client()
        tls.authority.write_text(other.certificate_pem)
        async with study.stub(aggregator.target, tls) as stub:
            with raises(grpc.StatusCode.UNAVAILABLE):
                await stub.Offer(pb.OfferRequest(), timeout=20)
