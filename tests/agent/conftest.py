"""A study in small, on loopback with real mutual TLS: a hub written for the test, a real agent, a trainer, an operator."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tests import small_study

from fedstudy.agent.process import agent
from fedstudy.agent.settings import Settings
from fedstudy.errors import PlanError, RefusedError
from fedstudy.identity import Identity, Role
from fedstudy.plan import StudyPlan
from fedstudy.tensors import Blob
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.admin import STATE, AgentState, Approval, Configure, DatasetPolicy
from fedstudy.wire.auth import peer
from fedstudy.wire.blobs import BlobStore
from fedstudy.wire.channel import Listener, TLSFiles, listen, open_channel
from fedstudy.wire.federation_pb2_grpc import (
    AdminStub,
    FederationServicer,
    FederationStub,
    add_FederationServicer_to_server,
)
from fedstudy.wire.status import abort
from fedstudy.wire.transfer import fetch, serve_fetch, serve_submit, submit
from fedstudy_operator.pki import KeyPair, issue, make_authority, sign_csr

DOMAIN = "test.example"
POLICY = DatasetPolicy(
    purposes=["DUO:0000007"], algorithms=["*"], networks=["*"], min_sites=1, require_secure_aggregation=False
)
AUTOMATIC = Approval(mode="Automatic")
MODEL = {"constant.covariate.mean": np.zeros(1, np.float32), "weight": np.zeros((2, 3), np.float32)}
UPDATE = {"weight": np.ones((2, 3), np.float32)}


def plan_of(rounds: int = 2) -> StudyPlan:
    return small_study.plan(federation={"rounds": rounds, "minSites": 3})


async def until(holds: Callable[[], Any], what: str = "", seconds: float = 20.0) -> Any:
    """Wait for a condition, with a deadline."""
    try:
        async with asyncio.timeout(seconds):
            while not (found := holds()):  # noqa: ASYNC110 - any condition, also of files and processes
                await asyncio.sleep(0.01)
            return found
    except TimeoutError:
        raise AssertionError(f"never came true: {what}") from None


@dataclass
class Hub(FederationServicer):
    """What an aggregator is to the agent, as simple as can be; its fields may be changed while it runs."""

    folder: Path
    authority: KeyPair
    plan: StudyPlan = field(default_factory=plan_of)
    document: bytes | None = None
    accepts: bool = True
    revoked: bool = False
    refuses: RefusedError | None = None
    port: int = 0
    open_instructions: dict[str, pb.Instruction] = field(default_factory=dict)
    answers: dict[str, Blob] = field(default_factory=dict)
    contributions: dict[str, pb.Contribution] = field(default_factory=dict)
    submissions: list[str] = field(default_factory=list)
    reports: list[pb.ReportRequest] = field(default_factory=list)
    followers: int = 0
    follows: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    withheld: set[str] = field(default_factory=set)
    days: float = 1
    renewals: list[str] = field(default_factory=list)
    callers: list[str] = field(default_factory=list)  # certificates that Offer was called with

    def __post_init__(self) -> None:
        self.blobs = BlobStore(self.folder / "hub-blobs")
        self._streams: list[asyncio.Queue[pb.Instruction]] = []
        self._listener: Listener | None = None
        identity = Identity(DOMAIN, "study", "u-1", Role.AGGREGATOR)
        self.tls = write_tls(self.folder / "hub-tls", self.authority, identity, ["aggregator"])

    async def start(self) -> None:
        rules = {
            f"/fedstudy.v1.Federation/{name}": frozenset({Role.SITE})
            for name in ("Renew", "Offer", "Follow", "Fetch", "Inquire", "Submit", "Report")
        } | {"/fedstudy.v1.Federation/Enroll": frozenset({Role.INVITATION})}
        self._listener = await listen(
            f"127.0.0.1:{self.port}",
            self.tls,
            lambda server: add_FederationServicer_to_server(self, server),
            rules=rules,
            on_refusal=lambda refusal: None,
        )
        self.port = self._listener.port

    async def stop(self) -> None:
        if self._listener is not None:
            await self._listener.stop(0)
            self._listener = None
        await until(lambda: self.followers == 0, "the streams end with the hub")

    def give(
        self,
        kind: str,
        round: int = 1,
        inputs: dict[str, Blob] | None = None,
        deadline: int = 60,
        **parameters: Any,
    ) -> str:
        """Send an instruction; it is sent again on each new stream until it is answered."""
        named = f"{round:04d}-000-{kind.lower()}-hospital-a"
        instruction = pb.Instruction(
            id=named,
            kind=pb.Kind.Value(kind),
            round=round,
            parameters=json.dumps(parameters).encode(),
            deadline_seconds=deadline,
            inputs=[
                pb.Input(name=name, digest=blob.digest, size=blob.size)
                for name, blob in (inputs or {}).items()
            ],
        )
        self.open_instructions[named] = instruction
        self._push(instruction)
        return named

    def give_training(self, round: int = 1) -> str:
        return self.give("TRAIN", round, {"model": self.blobs.add_tensors(MODEL)})

    def cancel(self, named: str) -> None:
        self.open_instructions.pop(named)
        document = json.dumps({"instruction": named}).encode()
        self._push(pb.Instruction(id=f"cancel-{named}", kind=pb.CANCEL, parameters=document))

    def _push(self, instruction: pb.Instruction) -> None:
        for stream in self._streams:
            stream.put_nowait(instruction)

    async def Enroll(self, request: pb.EnrollRequest, context: Any) -> pb.EnrollReply:
        self.requests.append(request.csr_pem)
        if self.refuses:
            await abort(context, self.refuses)
        await until(lambda: self.accepts, "the enrolment is accepted")
        identity = Identity(DOMAIN, "study", "u-1", Role.SITE, peer(context).name.removeprefix("for-"))
        signed = sign_csr(self.authority, request.csr_pem, identity=identity, days=self.days)
        return pb.EnrollReply(certificate_pem=signed, authority_pem=self.authority.certificate_pem)

    async def Renew(self, request: pb.EnrollRequest, context: Any) -> pb.EnrollReply:
        self.renewals.append(request.csr_pem)
        if self.refuses:
            await abort(context, self.refuses)
        identity = Identity(DOMAIN, "study", "u-1", Role.SITE, peer(context).name)
        signed = sign_csr(self.authority, request.csr_pem, identity=identity, days=1)
        return pb.EnrollReply(certificate_pem=signed, authority_pem=self.authority.certificate_pem)

    async def Offer(self, request: pb.OfferRequest, context: Any) -> pb.OfferReply:
        self.callers.append(context.auth_context()["x509_pem_cert"][0].decode())
        if self.revoked:
            await abort(context, RefusedError("This site is not invited any more."))
        return pb.OfferReply(plan=self.document or self.plan.canonical(), digest=self.plan.digest())

    async def Follow(self, request: pb.FollowRequest, context: Any) -> AsyncIterator[pb.Instruction]:
        if request.plan_digest != self.plan.digest():
            await abort(context, PlanError("Another plan."))
        stream: asyncio.Queue[pb.Instruction] = asyncio.Queue()
        for instruction in self.open_instructions.values():
            stream.put_nowait(instruction)
        self._streams.append(stream)
        self.follows.append(request.plan_digest)
        self.followers += 1
        try:
            while True:
                yield await stream.get()
        finally:
            self._streams.remove(stream)
            self.followers -= 1

    async def Fetch(self, request: pb.FetchRequest, context: Any) -> AsyncIterator[pb.Chunk]:
        if request.digest in self.withheld:
            await abort(context, RefusedError("No open instruction names it."))
        async for chunk in serve_fetch(self.blobs, request, context):
            yield chunk

    async def Inquire(self, request: pb.InquireRequest, context: Any) -> pb.InquireReply:
        offset = self.blobs.held(request.digest, request.size)
        return pb.InquireReply(offset=offset, accepted=request.instruction_id in self.answers)

    async def Submit(self, requests: AsyncIterator[pb.SubmitRequest], context: Any) -> pb.SubmitReply:
        def expect(header: pb.SubmitHeader) -> Blob:
            self.submissions.append(header.instruction_id)
            if header.instruction_id not in self.open_instructions:
                raise RefusedError("Not wanted.")
            return Blob(header.digest, header.size)

        header = (await serve_submit(self.blobs, requests, context, expect=expect)).header
        self.answers[header.instruction_id] = Blob(header.digest, header.size)
        self.contributions[header.instruction_id] = header.contribution
        self.open_instructions.pop(header.instruction_id)
        return pb.SubmitReply(accepted=True, offset=header.size)

    async def Report(self, request: pb.ReportRequest, context: Any) -> pb.ReportReply:
        self.reports.append(request)
        return pb.ReportReply()


@dataclass
class Trainer:
    """A trainer's half of the wire."""

    stub: FederationStub
    folder: Path

    def __post_init__(self) -> None:
        self.blobs = BlobStore(self.folder / "trainer-blobs")

    @asynccontextmanager
    async def following(self, plan: StudyPlan) -> AsyncIterator[asyncio.Queue[pb.Instruction]]:
        """The instructions as they come; a lost stream is opened again."""
        got: asyncio.Queue[pb.Instruction] = asyncio.Queue()

        async def follow() -> None:
            while True:
                try:
                    async for instruction in self.stub.Follow(pb.FollowRequest(plan_digest=plan.digest())):
                        got.put_nowait(instruction)
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)

        task = asyncio.create_task(follow())
        try:
            yield got
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def answer(self, instruction: pb.Instruction | str, tensors: dict[str, Any], **said: float) -> Blob:
        named = instruction if isinstance(instruction, str) else instruction.id
        if not isinstance(instruction, str):
            for wanted in instruction.inputs:
                await fetch(self.stub, Blob(wanted.digest, wanted.size), self.blobs, timeout=10)
        blob = self.blobs.add_tensors(tensors)
        await submit(self.stub, named, blob, self.blobs, pb.Contribution(**said), timeout=10)
        return blob


@dataclass
class Operator:
    """The operator's half: watches, decides."""

    channel: grpc.aio.Channel
    state: AgentState = field(default_factory=AgentState)
    seen: list[AgentState] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stub = AdminStub(self.channel)

    async def watch(self) -> None:
        while True:
            try:
                async for update in self.stub.Watch(pb.WatchRequest()):
                    state = STATE.validate_json(update.document)
                    assert isinstance(state, AgentState)
                    self.state = state
                    self.seen.append(state)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)

    async def configure(
        self, approval: Approval = AUTOMATIC, policy: DatasetPolicy = POLICY, **more: Any
    ) -> None:
        wishes = Configure(approval=approval, policy=policy, **more)
        request = pb.DecideRequest(document=wishes.model_dump_json(by_alias=True).encode())
        await self.stub.Decide(request, wait_for_ready=True, timeout=10)


def write_tls(
    folder: Path, authority: KeyPair, identity: Identity, dns: list[str], days: float = 1
) -> TLSFiles:
    server = identity.role in (Role.AGGREGATOR, Role.AGENT)
    pair = issue(authority, identity=identity, dns_names=dns, days=days, server=server, client=not server)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tls.crt").write_text(pair.certificate_pem)
    (folder / "tls.key").write_text(pair.key_pem)
    (folder / "ca.crt").write_text(authority.certificate_pem)
    return TLSFiles.from_folder(folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class World:
    """A hub and a hospital."""

    folder: Path
    hub: Hub
    operator: Operator
    trainer: Trainer
    settings: Settings
    plan_of = staticmethod(plan_of)
    until = staticmethod(until)
    policy = POLICY
    model = MODEL
    update = UPDATE

    @property
    def state(self) -> AgentState:
        return self.operator.state

    @property
    def ledger(self) -> Path:
        return self.settings.state / "ledger.jsonl"

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[None]:
        """The agent, for the length of the block."""
        async with agent(self.settings):
            yield

    def environment(self) -> dict[str, str]:
        """The same settings for an agent in a process of its own."""
        s = self.settings
        return {
            "FEDSTUDY_LISTEN": s.listen,
            "FEDSTUDY_TLS": str(s.tls),
            "FEDSTUDY_UPSTREAM": s.upstream,
            "FEDSTUDY_UPSTREAM_NAME": s.upstream_name,
            "FEDSTUDY_INVITATION": str(s.invitation),
            "FEDSTUDY_SITE": s.site,
            "FEDSTUDY_STATE": str(s.state),
        }

    async def shows(self, what: str = "", **fields: Any) -> None:
        """Wait until the state that the operator sees has these values."""

        def holds() -> bool:
            return all(getattr(self.state, name) == value for name, value in fields.items())

        try:
            await until(holds, str(fields))
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.state!r}") from None


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A running hub, and a hospital whose agent is not yet started."""
    study, hospital = make_authority("study", 2), make_authority("hospital", 2)
    inside = {
        role: Identity(DOMAIN, "participant", "p-1", role)
        for role in (Role.AGENT, Role.TRAINER, Role.OPERATOR)
    }
    write_tls(tmp_path / "agent-tls", hospital, inside[Role.AGENT], ["agent"])
    invitation = Identity(DOMAIN, "study", "u-1", Role.INVITATION, "for-hospital-a")
    write_tls(tmp_path / "invitation", study, invitation, [])
    hub = Hub(tmp_path, study)
    await hub.start()
    settings = Settings(
        listen=f"127.0.0.1:{free_port()}",
        tls=tmp_path / "agent-tls",
        upstream=f"127.0.0.1:{hub.port}",
        upstream_name="aggregator",
        invitation=tmp_path / "invitation",
        site="hospital-a",
        state=tmp_path / "state",
    )

    def channel(role: Role) -> grpc.aio.Channel:
        files = write_tls(tmp_path / role.value, hospital, inside[role], [])
        return open_channel(settings.listen, files, server_name="agent")

    async with channel(Role.TRAINER) as to_train, channel(Role.OPERATOR) as to_operate:
        operator = Operator(to_operate)
        watching = asyncio.create_task(operator.watch())
        yield World(tmp_path, hub, operator, Trainer(FederationStub(to_train), tmp_path), settings)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await hub.stop()
