"""A small study for crash tests: its files, its bare sites and its operator, which outlive any process they speak to."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import grpc

from fedstudy import tensors
from fedstudy.aggregator.config import StudyConfig
from fedstudy.aggregator.state import Kind, Stage
from fedstudy.errors import FedstudyError
from fedstudy.identity import Identity, Role
from fedstudy.plan import StudyPlan
from fedstudy.tensors import Blob
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.admin import STATE, AcceptEnrolment
from fedstudy.wire.blobs import BlobStore
from fedstudy.wire.channel import TLSFiles, open_channel
from fedstudy.wire.credentials import make_key_and_csr
from fedstudy.wire.federation_pb2_grpc import AdminStub, FederationStub
from fedstudy.wire.transfer import fetch, submit
from fedstudy_operator.pki import KeyPair, issue, make_authority, sign_csr

DOMAIN, UID = "hub.example", "study-1"
KINDS = {
    pb.STATISTICS: Kind.STATISTICS,
    pb.INITIALISE: Kind.INITIALISE,
    pb.TRAIN: Kind.TRAIN,
    pb.EVALUATE: Kind.EVALUATE,
}
AGAIN_SECONDS = 0.02

T = TypeVar("T")


def load_helpers(room: str) -> ModuleType:
    """The helpers of another room of tests, which are in its conftest."""
    path = Path(__file__).parent.parent / room / "conftest.py"
    spec = importlib.util.spec_from_file_location(f"helpers_of_{room}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fakes = load_helpers("aggregator")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def persist(attempt: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Try until it works: the process at the other end may be dead, or not yet born."""
    while True:
        try:
            return await attempt()
        except* (grpc.aio.AioRpcError, FedstudyError):
            await asyncio.sleep(AGAIN_SECONDS)


@dataclass
class Study:
    """One study on loopback.

    Attributes:
        port: where the aggregator listens whenever it lives.
    """

    folder: Path
    plan: StudyPlan
    sites: tuple[str, ...]
    port: int = field(default_factory=free_port)
    authority: KeyPair = field(default_factory=lambda: make_authority("study", 2))

    def __post_init__(self) -> None:
        config = self.folder / "config"
        config.mkdir(parents=True)
        (config / "plan.json").write_bytes(self.plan.canonical())
        invited = StudyConfig(uid=UID, trust_domain=DOMAIN, sites=list(self.sites), required=list(self.sites))
        (config / "study.json").write_text(invited.model_dump_json(by_alias=True))
        self.issued(Role.AGGREGATOR)
        self.operator = self.issued(Role.OPERATOR)

    def tls(self, name: str, certificate: str, key: str) -> TLSFiles:
        """Write a certificate where a process finds it."""
        folder = self.folder / "tls" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tls.crt").write_text(certificate)
        (folder / "tls.key").write_text(key)
        (folder / "ca.crt").write_text(self.authority.certificate_pem)
        return TLSFiles.from_folder(folder)

    def issued(self, role: Role, name: str = "") -> TLSFiles:
        """A certificate of the study."""
        server = role is Role.AGGREGATOR
        pair = issue(
            self.authority,
            identity=Identity(DOMAIN, "study", UID, role, name),
            dns_names=("aggregator",) if server else (),
            days=1,
            server=server,
            client=not server,
        )
        return self.tls(f"{role.value}{name and '-'}{name}", pair.certificate_pem, pair.key_pem)

    def environment(self, state: str) -> dict[str, str]:
        """Of an aggregator with a state folder of that name."""
        return {
            "FEDSTUDY_LISTEN": f"127.0.0.1:{self.port}",
            "FEDSTUDY_TLS": str(self.folder / "tls" / Role.AGGREGATOR.value),
            "FEDSTUDY_CONFIG": str(self.folder / "config"),
            "FEDSTUDY_STATE": str(self.folder / state),
        }

    def channel(self, tls: TLSFiles, port: int = 0) -> grpc.aio.Channel:
        """To the aggregator, or to what stands before it."""
        return open_channel(f"127.0.0.1:{port or self.port}", tls, server_name="aggregator")

    # The operator's part

    async def sign_whoever_asks(self) -> None:
        """Accept every invitation's request, for ever."""
        await persist(self._sign)

    async def _sign(self) -> None:
        async with self.channel(self.operator) as channel:
            stub = AdminStub(channel)
            async for message in stub.Watch(pb.WatchRequest()):
                for entry in STATE.validate_json(message.document).pending:
                    site = entry.invitation.removeprefix("inv-")
                    who = Identity(DOMAIN, "study", UID, Role.SITE, site)
                    decision = AcceptEnrolment(
                        invitation=entry.invitation,
                        key_fingerprint=entry.key_fingerprint,
                        site=site,
                        certificate_pem=sign_csr(self.authority, entry.csr_pem, identity=who, days=1),
                        authority_pem=self.authority.certificate_pem,
                    )
                    await stub.Decide(
                        pb.DecideRequest(document=decision.model_dump_json(by_alias=True).encode())
                    )
        raise FedstudyError("The stream ended.")

    # A site's part

    async def enrol(self, site: str) -> TLSFiles:
        """Get a site's certificate, whatever happens to the aggregator meanwhile."""
        invitation = self.issued(Role.INVITATION, f"inv-{site}")
        key, csr = make_key_and_csr()

        async def ask() -> pb.EnrollReply:
            async with self.channel(invitation) as channel:
                return await FederationStub(channel).Enroll(pb.EnrollRequest(csr_pem=csr))

        reply = await persist(ask)
        return self.tls(site, reply.certificate_pem, key)

    async def play(self, site: str, tls: TLSFiles, folder: Path) -> str:
        """Take part until the study's end; the digest of the final model."""
        return await self.take_part(site, lambda: self.channel(tls), folder)

    async def take_part(self, site: str, dial: Callable[[], grpc.aio.Channel], folder: Path) -> str:
        """The same, whether the aggregator or an agent is at the other end."""
        store = BlobStore(folder)
        return await persist(lambda: self._follow(site, dial, store))

    async def _follow(self, site: str, dial: Callable[[], grpc.aio.Channel], store: BlobStore) -> str:
        async with dial() as channel:
            stub = FederationStub(channel)
            told: asyncio.Queue[pb.Instruction] = asyncio.Queue()

            async def listen() -> None:
                async for one in stub.Follow(pb.FollowRequest(plan_digest=str(self.plan.digest()))):
                    told.put_nowait(one)
                raise FedstudyError("The stream ended.")

            async with asyncio.TaskGroup() as group:
                listening = group.create_task(listen())
                while (one := await told.get()).kind != pb.FINISH:
                    if one.kind != pb.CANCEL:
                        await self._answer(stub, site, one, store)
                listening.cancel()
            return next(i.digest for i in one.inputs if i.name == "model")

    async def _answer(self, stub: FederationStub, site: str, one: pb.Instruction, store: BlobStore) -> None:
        answer = await answer_of(stub, site, one, store)
        said = pb.Contribution(samples=fakes.SAMPLES[site], steps=5, seconds=1, loss=0.4)
        await submit(stub, one.id, answer, store, said, timeout=20)


async def answer_of(stub: FederationStub, site: str, one: pb.Instruction, store: BlobStore) -> Blob:
    """What a bare site answers: the same for the same site, instruction and model."""
    model = None
    for named in one.inputs:
        path = await fetch(stub, Blob(named.digest, named.size), store, timeout=20)
        model = tensors.read(path) if named.name == "model" else model
    split = json.loads(one.parameters).get("split", "")
    stage = Stage(KINDS[one.kind], one.round, 0, (site,), {}, {}, 0, 0, split=split)
    metadata = {"instruction": one.id, "kind": stage.kind.value}
    return store.add_tensors(fakes.answer_tensors(stage, site, model), metadata)
