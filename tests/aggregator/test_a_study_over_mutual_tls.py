"""The whole aggregator on loopback: enrolment by CSR, mutual TLS, streams, transfers, the operator's view, refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from a_served_study import DOMAIN, UID, served

from fedstudy import tensors
from fedstudy.aggregator.report import collect
from fedstudy.aggregator.state import Kind, Stage
from fedstudy.errors import ConnectionLostError, PlanError, RefusedError
from fedstudy.identity import Identity, Role
from fedstudy.tensors import Blob
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.admin import (
    STATE,
    AcceptEnrolment,
    AggregatorState,
    Phase,
    RefuseEnrolment,
    SetSites,
)
from fedstudy.wire.blobs import BlobStore
from fedstudy.wire.channel import TLSFiles, open_channel
from fedstudy.wire.credentials import certificate_identity, make_key_and_csr
from fedstudy.wire.federation_pb2_grpc import AdminStub, FederationStub
from fedstudy.wire.status import from_rpc_error
from fedstudy.wire.transfer import fetch, submit
from fedstudy_operator.pki import KeyPair, issue, make_authority, sign_csr

KINDS = {
    pb.STATISTICS: Kind.STATISTICS,
    pb.INITIALISE: Kind.INITIALISE,
    pb.TRAIN: Kind.TRAIN,
    pb.EVALUATE: Kind.EVALUATE,
}


@dataclass
class Hub:
    """A running aggregator, and the study's authority."""

    folder: Path
    authority: KeyPair
    port: int
    plan: Any

    def tls(self, name: str, certificate: str, key: str, authority: str | None = None) -> TLSFiles:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "tls.crt").write_text(certificate)
        (folder / "tls.key").write_text(key)
        (folder / "ca.crt").write_text(authority or self.authority.certificate_pem)
        return TLSFiles.from_folder(folder)

    def issued(self, role: Role, name: str = "", *, uid: str = UID, days: float = 1) -> TLSFiles:
        identity = Identity(DOMAIN, "study", uid, role, name)
        pair = issue(self.authority, identity=identity, dns_names=(), days=days, server=False, client=True)
        return self.tls(f"{role.value}-{name}-{uid}-{days}", pair.certificate_pem, pair.key_pem)

    def channel(self, tls: TLSFiles) -> grpc.aio.Channel:
        return open_channel(f"127.0.0.1:{self.port}", tls, server_name="aggregator")


@asynccontextmanager
async def running(folder: Path, plan: Any, sites: tuple[str, ...]) -> AsyncIterator[Hub]:
    authority = make_authority("study", 2)
    hub = Hub(folder, authority, 0, plan)
    identity = Identity(DOMAIN, "study", UID, Role.AGGREGATOR)
    pair = issue(authority, identity=identity, dns_names=("aggregator",), days=1, server=True, client=False)
    hub.tls("server", pair.certificate_pem, pair.key_pem)
    async with served(folder, plan, sites) as hub.port:
        yield hub


async def watch(hub: Hub, seen: Callable[[AggregatorState], bool]) -> AggregatorState:
    """The first state for which something holds."""
    async with hub.channel(hub.issued(Role.OPERATOR)) as channel:
        async for message in AdminStub(channel).Watch(pb.WatchRequest()):
            state = STATE.validate_json(message.document)
            assert isinstance(state, AggregatorState)
            if seen(state):
                return state
    raise AssertionError("the stream ended")


async def decide(hub: Hub, decision: Any) -> None:
    async with hub.channel(hub.issued(Role.OPERATOR)) as channel:
        await AdminStub(channel).Decide(
            pb.DecideRequest(document=decision.model_dump_json(by_alias=True).encode())
        )


async def enrolled(hub: Hub, site: str) -> TLSFiles:
    """A site's own certificate, got with a CSR under an invitation."""
    key, csr = make_key_and_csr()
    async with hub.channel(hub.issued(Role.INVITATION, f"inv-{site}")) as channel:
        reply = await FederationStub(channel).Enroll(pb.EnrollRequest(csr_pem=csr))
    return hub.tls(site, reply.certificate_pem, key, reply.authority_pem)


async def accept_all(hub: Hub, count: int) -> None:
    """The operator's part: sign what waits."""
    state = await watch(hub, lambda s: len(s.pending) >= count)
    for entry in state.pending:
        site = entry.renews or entry.invitation.removeprefix("inv-")
        certificate = sign_csr(
            hub.authority, entry.csr_pem, identity=Identity(DOMAIN, "study", UID, Role.SITE, site), days=1
        )
        await decide(
            hub,
            AcceptEnrolment(
                invitation=entry.invitation,
                key_fingerprint=entry.key_fingerprint,
                site=site,
                certificate_pem=certificate,
                authority_pem=hub.authority.certificate_pem,
            ),
        )


async def play(hub: Hub, fakes: Any, site: str, tls: TLSFiles) -> str:
    """A site's whole part over the wire; returns the digest of the final model."""
    store = BlobStore(hub.folder / f"blobs-{site}")
    async with hub.channel(tls) as channel:
        stub = FederationStub(channel)
        offer = await stub.Offer(pb.OfferRequest())
        assert offer.plan == hub.plan.canonical()
        async for told in stub.Follow(pb.FollowRequest(plan_digest=offer.digest)):
            inputs = {i.name: Blob(i.digest, i.size) for i in told.inputs}
            paths = {name: await fetch(stub, blob, store, timeout=20) for name, blob in inputs.items()}
            if told.kind == pb.FINISH:
                return inputs["model"].digest
            model = tensors.read(paths["model"]) if "model" in paths else None
            parameters = json.loads(told.parameters)
            stage = Stage(
                KINDS[told.kind], told.round, 0, (site,), {}, {}, 0, 0, split=parameters.get("split", "")
            )
            answer = store.add_tensors(
                fakes.answer_tensors(stage, site, model), {"instruction": told.id, "kind": stage.kind.value}
            )
            await stub.Report(pb.ReportRequest(progress=pb.Progress(instruction_id=told.id, samples_done=3)))
            said = pb.Contribution(samples=fakes.SAMPLES[site], steps=5, seconds=1, loss=0.4)
            await submit(stub, told.id, answer, store, said, timeout=20)
            await submit(stub, told.id, answer, store, said, timeout=20)  # a lost reply: again is no fault
    raise AssertionError("the stream ended before the study")


async def test_three_sites_enrol_train_and_finish(tmp_path: Path, fedstudy_fakes: Any) -> None:
    plan = fedstudy_fakes.plan_of()
    async with running(tmp_path, plan, fedstudy_fakes.SITES) as hub:
        async with asyncio.TaskGroup() as group:
            waiting = {s: group.create_task(enrolled(hub, s)) for s in fedstudy_fakes.SITES}
            await accept_all(hub, 3)
        certificates = {site: task.result() for site, task in waiting.items()}
        async with asyncio.TaskGroup() as group:
            playing = [group.create_task(play(hub, fedstudy_fakes, s, c)) for s, c in certificates.items()]
        state = await watch(hub, lambda s: s.phase is Phase.COMPLETE)
        assert {task.result() for task in playing} == {state.model_digest}
        assert (state.round, state.metrics_round, state.seconds_left) == (2, 2, 0.0)
        assert all(s.state == "Done" and s.bytes_in and s.bytes_out and s.metrics for s in state.sites)
        late = await play(hub, fedstudy_fakes, "hospital-a", certificates["hospital-a"])
        assert late == state.model_digest
    results = collect(tmp_path / "state")
    assert results.bytes["received"] == sum(site.bytes_sent for site in results.sites) > 0
    assert results.bytes["sent"] == sum(site.bytes_received for site in results.sites) > 0
    in_process = await fedstudy_fakes.run_study(tmp_path / "in-process", plan)
    assert in_process.state.model.digest == results.model_digest


async def test_an_invitation_enrols_one_key_once(tmp_path: Path, fedstudy_fakes: Any) -> None:
    async with running(tmp_path, fedstudy_fakes.plan_of(), ("hospital-a",)) as hub:
        _, csr = make_key_and_csr()
        async with hub.channel(hub.issued(Role.INVITATION, "inv-hospital-a")) as channel:
            stub = FederationStub(channel)
            async with asyncio.TaskGroup() as group:
                first = group.create_task(call(stub.Enroll(pb.EnrollRequest(csr_pem=csr))))
                await accept_all(hub, 1)
            again = await stub.Enroll(pb.EnrollRequest(csr_pem=csr))
            assert again.certificate_pem == first.result().certificate_pem
            with pytest.raises(RefusedError, match="used before, by another key"):
                await call(stub.Enroll(pb.EnrollRequest(csr_pem=make_key_and_csr()[1])))
            with pytest.raises(RefusedError, match="cannot be read"):
                await call(stub.Enroll(pb.EnrollRequest(csr_pem="nonsense")))
        async with hub.channel(hub.issued(Role.INVITATION, "inv-other")) as channel:
            stub = FederationStub(channel)
            async with asyncio.TaskGroup() as group:
                other = group.create_task(refused(stub.Enroll(pb.EnrollRequest(csr_pem=csr))))
                pending = (await watch(hub, lambda s: len(s.pending) == 1)).pending[0]
                named = {"invitation": pending.invitation, "key_fingerprint": pending.key_fingerprint}
                await decide(hub, RefuseEnrolment(**named, reason="not on the list"))
            assert "not on the list" in other.result()


async def call(rpc: Any) -> Any:
    """A unary call whose errors are ours again."""
    try:
        return await rpc
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


async def refused(rpc: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        await call(rpc)
    return str(caught.value)


async def test_foreign_certificates_are_refused_and_recorded(tmp_path: Path, fedstudy_fakes: Any) -> None:
    async with running(tmp_path, fedstudy_fakes.plan_of(), ("hospital-a",)) as hub:
        for tls in (
            hub.issued(Role.SITE, "hospital-z"),
            hub.issued(Role.SITE, "hospital-a", uid="another"),
            hub.issued(Role.INVITATION, "hospital-a"),
            hub.issued(Role.OPERATOR),
        ):
            async with hub.channel(tls) as channel:
                assert await refused(FederationStub(channel).Offer(pb.OfferRequest()))
        async with hub.channel(hub.issued(Role.SITE, "hospital-a", days=-1)) as channel:
            with pytest.raises(ConnectionLostError):
                await call(FederationStub(channel).Offer(pb.OfferRequest(), timeout=5))
        async with hub.channel(hub.issued(Role.SITE, "hospital-a")) as channel:
            assert await refused(AdminStub(channel).Decide(pb.DecideRequest()))
            with pytest.raises(PlanError, match="approved the plan sha256:other"):
                await call(
                    first(FederationStub(channel).Follow(pb.FollowRequest(plan_digest="sha256:other")))
                )
        await watch(hub, lambda s: s.refusals >= 6)


async def first(stream: Any) -> Any:
    async for message in stream:
        return message
    return None


async def test_a_newer_stream_ends_the_older_and_a_removed_site_is_cut(
    tmp_path: Path, fedstudy_fakes: Any
) -> None:
    plan = fedstudy_fakes.plan_of()
    async with running(tmp_path, plan, ("hospital-a", "hospital-b")) as hub:
        async with hub.channel(hub.issued(Role.SITE, "hospital-a")) as channel:
            stub = FederationStub(channel)
            follow = pb.FollowRequest(plan_digest=str(plan.digest()))
            async with asyncio.TaskGroup() as group:
                older = group.create_task(refused(first(stub.Follow(follow))))
                await watch(hub, lambda s: s.sites[0].connected)
                newer = group.create_task(refused(first(stub.Follow(follow))))
                assert "took over" in await older
                await watch(hub, lambda s: s.sites[0].connected)
                await decide(hub, SetSites(sites=["hospital-b"]))
                assert "no longer, invited" in await newer
            assert await refused(stub.Offer(pb.OfferRequest()))
        state = await watch(hub, lambda s: not s.sites[0].connected)
        assert (state.sites[0].name, state.sites[0].state) == ("hospital-a", "Revoked")


async def test_a_site_renews_its_certificate_and_a_removed_one_does_not(
    tmp_path: Path, fedstudy_fakes: Any
) -> None:
    async with running(tmp_path, fedstudy_fakes.plan_of(), ("hospital-a", "hospital-b")) as hub:
        async with asyncio.TaskGroup() as group:
            enrolling = group.create_task(enrolled(hub, "hospital-a"))
            await accept_all(hub, 1)
        csr = make_key_and_csr()[1]
        async with hub.channel(enrolling.result()) as channel, asyncio.TaskGroup() as group:
            stub = FederationStub(channel)
            stream = stub.Follow(pb.FollowRequest(plan_digest=hub.plan.digest()))
            await watch(hub, lambda s: s.sites[0].connected)
            renewing = group.create_task(call(stub.Renew(pb.EnrollRequest(csr_pem=csr))))
            state = await watch(hub, lambda s: bool(s.pending))
            assert [(p.renews, p.csr_pem) for p in state.pending] == [("hospital-a", csr)]
            await accept_all(hub, 1)
            reply = await renewing
            assert certificate_identity(reply.certificate_pem).name == "hospital-a"
            again = await stub.Renew(pb.EnrollRequest(csr_pem=csr))  # its reply was lost
            assert again == reply
            assert not (await watch(hub, lambda s: True)).pending
            assert not stream.done()
            await decide(hub, SetSites(sites=["hospital-b"]))
            assert "no longer" in await refused(stub.Renew(pb.EnrollRequest(csr_pem=csr)))
            with pytest.raises(grpc.aio.AioRpcError):  # and its open stream is cut
                async for _ in stream:
                    pass


async def test_a_refused_renewal_may_be_asked_again(tmp_path: Path, fedstudy_fakes: Any) -> None:
    async with running(tmp_path, fedstudy_fakes.plan_of(), ("hospital-a",)) as hub:
        csr = make_key_and_csr()[1]
        async with hub.channel(hub.issued(Role.SITE, "hospital-a")) as channel, asyncio.TaskGroup() as group:
            stub = FederationStub(channel)
            first_try = group.create_task(refused(stub.Renew(pb.EnrollRequest(csr_pem=csr))))
            [entry] = (await watch(hub, lambda s: bool(s.pending))).pending
            named = {"invitation": entry.invitation, "key_fingerprint": entry.key_fingerprint}
            await decide(hub, RefuseEnrolment(**named, reason="not this key"))
            assert "not this key" in await first_try
            renewing = group.create_task(call(stub.Renew(pb.EnrollRequest(csr_pem=csr))))
            await accept_all(hub, 1)
            assert certificate_identity((await renewing).certificate_pem).name == "hospital-a"


async def test_an_invitation_renews_nothing(tmp_path: Path, fedstudy_fakes: Any) -> None:
    async with (
        running(tmp_path, fedstudy_fakes.plan_of(), ("hospital-a",)) as hub,
        hub.channel(hub.issued(Role.INVITATION, "inv-hospital-a")) as channel,
    ):
        request = pb.EnrollRequest(csr_pem=make_key_and_csr()[1])
        assert await refused(FederationStub(channel).Renew(request))
