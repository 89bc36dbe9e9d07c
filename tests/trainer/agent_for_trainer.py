"""An agent as a trainer sees it, over real mutual TLS, with a script of instructions instead of a hub."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from fedstudy.identity import Identity, Role
from fedstudy.plan import StudyPlan
from fedstudy.tensors import Blob, read
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.blobs import BlobStore
from fedstudy.wire.channel import Listener, TLSFiles, listen
from fedstudy.wire.federation_pb2_grpc import (
    FederationServicer,
    add_FederationServicer_to_server,
)
from fedstudy.wire.transfer import serve_fetch, serve_submit
from fedstudy_operator.pki import KeyPair, issue, make_authority
from fedstudy_trainer.settings import Release, Settings

METHODS = ("Offer", "Follow", "Fetch", "Inquire", "Submit", "Report")
RULES = {f"/fedstudy.v1.Federation/{name}": frozenset({Role.TRAINER}) for name in METHODS}


@dataclass
class Answer:
    """What a trainer handed in."""

    header: pb.SubmitHeader
    path: Path

    @property
    def tensors(self) -> dict[str, Any]:
        return read(self.path)


@dataclass
class ScriptedAgent(FederationServicer):
    """Sends what is put into it, keeps what it is told."""

    plan: StudyPlan
    store: BlobStore
    answers: dict[str, Answer] = field(default_factory=dict)
    progress: list[pb.Progress] = field(default_factory=list)
    failures: list[pb.Failure] = field(default_factory=list)
    profiles: list[dict[str, Any]] = field(default_factory=list)
    streams: int = 0

    def __post_init__(self) -> None:
        self.accepts = asyncio.Event()  # cleared: answers have to wait
        self.accepts.set()
        self._open: list[pb.Instruction] = []
        self._changed = asyncio.Condition()
        self._cut = 0

    async def instruct(
        self, kind: str, *, id: str = "", inputs: Mapping[str, Blob] | None = None, **parameters: Any
    ) -> str:
        """Send an instruction; its id."""
        instruction = pb.Instruction(
            id=id or f"{len(self._open):04d}-000-{kind.lower()}-a",
            kind=kind,
            inputs=[pb.Input(name=n, digest=b.digest, size=b.size) for n, b in (inputs or {}).items()],
            parameters=json.dumps(parameters).encode(),
            deadline_seconds=60,
        )
        self._open.append(instruction)
        await self._wake()
        return instruction.id

    async def answer(self, id: str) -> Answer:
        """The answer to an instruction, when it has come."""
        await self.until(lambda: id in self.answers)
        return self.answers[id]

    async def until(self, condition: Any) -> None:
        """Wait until a condition on what was told holds; at most 60 seconds."""
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(condition)

    async def cut_stream(self) -> None:
        """End the open stream, as an agent that restarts does."""
        self._cut += 1
        await self._wake()

    async def Offer(self, request: pb.OfferRequest, context: Any) -> pb.OfferReply:
        return pb.OfferReply(plan=self.plan.canonical(), digest=self.plan.digest())

    async def Follow(self, request: pb.FollowRequest, context: Any) -> AsyncIterator[pb.Instruction]:
        assert request.plan_digest == self.plan.digest()
        await context.send_initial_metadata(())
        self.streams += 1
        cut, sent = self._cut, 0
        await self._wake()
        while cut == self._cut:
            async with self._changed:
                while len(self._open) == sent and cut == self._cut:
                    await self._changed.wait()
            fresh, sent = self._open[sent:], len(self._open)
            for instruction in fresh:
                if instruction.id not in self.answers:
                    yield instruction
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the agent restarts")

    async def Fetch(self, request: pb.FetchRequest, context: Any) -> AsyncIterator[pb.Chunk]:
        async for chunk in serve_fetch(self.store, request, context):
            yield chunk

    async def Inquire(self, request: pb.InquireRequest, context: Any) -> pb.InquireReply:
        await self.accepts.wait()
        offset = self.store.held(request.digest, request.size)
        return pb.InquireReply(offset=offset, accepted=request.instruction_id in self.answers)

    async def Submit(self, requests: AsyncIterator[pb.SubmitRequest], context: Any) -> pb.SubmitReply:
        await self.accepts.wait()
        submission = await serve_submit(
            self.store, requests, context, expect=lambda header: Blob(header.digest, header.size)
        )
        header = submission.header
        self.answers[header.instruction_id] = Answer(header, self.store.path(header.digest))
        await self._wake()
        return pb.SubmitReply(accepted=True, offset=header.size)

    async def Report(self, request: pb.ReportRequest, context: Any) -> pb.ReportReply:
        which = request.WhichOneof("report")
        if which == "progress":
            self.progress.append(request.progress)
        elif which == "failure":
            self.failures.append(request.failure)
        else:
            self.profiles.append(json.loads(request.preflight.profile))
        await self._wake()
        return pb.ReportReply()

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def agent_at(
    folder: Path, plan: StudyPlan, dataset: Path, *, release: Release = Release.NEVER
) -> AsyncIterator[tuple[ScriptedAgent, Settings]]:
    """A listening agent, and the settings of a trainer that is its own, on a dataset whose `dataset.json` is beside it."""
    authority = make_authority("hospital", days=1)
    for role in (Role.AGENT, Role.TRAINER):
        _write(folder / role.value, authority, role)
    agent = ScriptedAgent(plan, BlobStore(folder / "agent-blobs"))
    listener: Listener = await listen(
        "127.0.0.1:0",
        TLSFiles.from_folder(folder / Role.AGENT.value),
        lambda server: add_FederationServicer_to_server(agent, server),  # type: ignore[no-untyped-call]
        rules=RULES,
        on_refusal=lambda refusal: None,
    )
    settings = Settings(
        tls=folder / Role.TRAINER.value,
        upstream=f"127.0.0.1:{listener.port}",
        upstream_name="agent",
        config=dataset,
        site="a",
        data=dataset,
        scratch=folder / "scratch",
        release=release,
        threads=1,
        connect_timeout=20,
        state=folder / "scratch" / "state",
        checkpoint=60,
    )
    try:
        yield agent, settings
    finally:
        await listener.stop(0.1)


def environment(settings: Settings) -> dict[str, str]:
    """The environment variables that give these settings."""
    return {
        "FEDSTUDY_TLS": str(settings.tls),
        "FEDSTUDY_UPSTREAM": settings.upstream,
        "FEDSTUDY_UPSTREAM_NAME": settings.upstream_name,
        "FEDSTUDY_CONFIG": str(settings.config),
        "FEDSTUDY_SITE": settings.site,
        "FEDSTUDY_DATA": str(settings.data),
        "FEDSTUDY_SCRATCH": str(settings.scratch),
        "FEDSTUDY_RELEASE": settings.release.value,
        "FEDSTUDY_CONNECT_TIMEOUT": str(settings.connect_timeout),
        "FEDSTUDY_STATE": str(settings.state),
        "FEDSTUDY_CHECKPOINT": str(settings.checkpoint),
    }


def _write(folder: Path, authority: KeyPair, role: Role) -> None:
    folder.mkdir(parents=True)
    pair = issue(
        authority,
        identity=Identity("hospital.test", "participant", "p1", role),
        dns_names=[role.value],
        days=1,
        server=role is Role.AGENT,
        client=role is Role.TRAINER,
    )
    (folder / "tls.crt").write_text(pair.certificate_pem)
    (folder / "tls.key").write_text(pair.key_pem)
    (folder / "ca.crt").write_text(authority.certificate_pem)
