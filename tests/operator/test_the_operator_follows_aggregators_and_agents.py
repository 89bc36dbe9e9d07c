"""Admin streams over real mutual TLS: the latest state, changes that wake a pass, decisions, broken and renewed connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from fedstudy.errors import ConnectionLostError, RefusedError
from fedstudy.identity import Identity, Role
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.admin import DECISION, STATE, AggregatorState, Phase, Suspend
from fedstudy.wire.channel import TLSFiles, listen
from fedstudy.wire.federation_pb2_grpc import AdminServicer, add_AdminServicer_to_server
from fedstudy.wire.status import abort
from fedstudy_operator.cluster import Key
from fedstudy_operator.pki import KeyPair, issue, make_authority
from fedstudy_operator.reconcile.admin import AdminPeers, Endpoint

OWNER = Key("FederatedStudy", "hub", "glioma")
RULES = {f"/fedstudy.v1.Admin/{name}": frozenset({Role.OPERATOR}) for name in ("Watch", "Decide")}


class Aggregator(AdminServicer):  # type: ignore[misc]
    """Says its state whenever it changes; refuses to be suspended."""

    def __init__(self) -> None:
        self.state = AggregatorState(phase=Phase.TRAINING, plan_digest="sha256:x", rounds=2)
        self.changed = asyncio.Event()
        self.told: list[Any] = []

    def update(self, **fields: Any) -> None:
        self.state = self.state.model_copy(update=fields)
        self.changed.set()

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.State]:
        while True:
            self.changed.clear()
            yield pb.State(document=STATE.dump_json(self.state, by_alias=True))
            await self.changed.wait()

    async def Decide(self, request: pb.DecideRequest, context: Any) -> pb.DecideReply:
        decision = DECISION.validate_json(request.document)
        self.told.append(decision)
        if decision == Suspend(suspend=True):
            await abort(context, RefusedError("It goes on.", "Do not ask."))
        return pb.DecideReply()


def identity(role: Role) -> Identity:
    return Identity("fedstudy", "study", "u1", role)


class World:
    """An authority, an aggregator that can be started and stopped, and its operator's peers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = make_authority("test", 1)
        self.servicer = Aggregator()
        self.address = "127.0.0.1:0"
        self.woken = asyncio.Event()
        self.peers = AdminPeers(
            resolve=lambda address: self.address if address == "agg.hub.svc:443" else address,
            on_change=lambda _: self.woken.set(),
            folder=folder / "operator",
        )

    def endpoint(self, pair: KeyPair | None = None) -> Endpoint:
        pair = pair or issue(
            self.authority, identity=identity(Role.OPERATOR), dns_names=(), days=1, server=False, client=True
        )
        return Endpoint(
            "agg.hub.svc:443",
            "aggregator",
            pair.certificate_pem,
            pair.key_pem,
            self.authority.certificate_pem,
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        pair = issue(
            self.authority,
            identity=identity(Role.AGGREGATOR),
            dns_names=("aggregator",),
            days=1,
            server=True,
            client=False,
        )
        files = {
            "tls.crt": pair.certificate_pem,
            "tls.key": pair.key_pem,
            "ca.crt": self.authority.certificate_pem,
        }
        for name, text in files.items():
            (self.folder / name).write_text(text)

        def add(server: grpc.aio.Server) -> None:
            add_AdminServicer_to_server(self.servicer, server)  # type: ignore[no-untyped-call]

        listener = await listen(
            self.address, TLSFiles.from_folder(self.folder), add, rules=RULES, on_refusal=lambda _: None
        )
        self.address = f"127.0.0.1:{listener.port}"
        try:
            yield
        finally:
            await listener.stop(0)

    async def until(self, holds: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self.woken.clear()
                if holds():
                    return
                await self.woken.wait()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    task = asyncio.create_task(made.peers.run())
    await asyncio.sleep(0)
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def round_of(world: World) -> int:
    state = world.peers.state(OWNER)
    return state.round if isinstance(state, AggregatorState) else -1


async def test_the_latest_state_is_known_and_every_change_wakes_a_pass(world: World) -> None:
    async with world.serving():
        world.peers.follow(OWNER, world.endpoint())
        await world.until(lambda: round_of(world) == 0)
        world.servicer.update(round=3)
        await world.until(lambda: round_of(world) == 3)
        assert world.peers.epoch(OWNER) == 1
        assert world.peers.problem(OWNER) == ""
        certificate = world.folder / "operator" / "FederatedStudy.hub.glioma" / "tls.key"
        assert certificate.stat().st_mode & 0o077 == 0


async def test_decisions_reach_it_and_refusals_come_back_whole(world: World) -> None:
    async with world.serving():
        world.peers.follow(OWNER, world.endpoint())
        await world.until(lambda: world.peers.epoch(OWNER))
        await world.peers.decide(OWNER, Suspend(suspend=False))
        assert world.servicer.told == [Suspend(suspend=False)]
        with pytest.raises(RefusedError, match="It goes on") as refused:
            await world.peers.decide(OWNER, Suspend(suspend=True))
        assert refused.value.remedy == "Do not ask."


async def test_a_broken_stream_is_said_kept_in_mind_and_opened_again(world: World) -> None:
    async with world.serving():
        world.peers.follow(OWNER, world.endpoint())
        await world.until(lambda: world.peers.epoch(OWNER))
    await world.until(lambda: not world.peers.epoch(OWNER))
    assert world.peers.problem(OWNER)
    assert round_of(world) == 0
    with pytest.raises(ConnectionLostError):
        await world.peers.decide(OWNER, Suspend(suspend=False))
    world.servicer.update(round=5)
    async with world.serving():
        await world.until(lambda: round_of(world) == 5)
        assert world.peers.epoch(OWNER) == 2


async def test_a_renewed_certificate_makes_a_new_stream_and_the_same_one_does_not(world: World) -> None:
    async with world.serving():
        endpoint = world.endpoint()
        world.peers.follow(OWNER, endpoint)
        await world.until(lambda: world.peers.epoch(OWNER) == 1)
        world.peers.follow(OWNER, endpoint)
        assert world.peers.epoch(OWNER) == 1
        world.peers.follow(OWNER, world.endpoint())
        assert world.peers.epoch(OWNER) == 0
        await world.until(lambda: world.peers.epoch(OWNER))


async def test_a_foreign_certificate_is_refused_and_said(world: World) -> None:
    stranger = issue(
        make_authority("another", 1),
        identity=identity(Role.OPERATOR),
        dns_names=(),
        days=1,
        server=False,
        client=True,
    )
    async with world.serving():
        world.peers.follow(OWNER, world.endpoint(stranger))
        await world.until(lambda: world.peers.problem(OWNER) not in ("", "not connected yet"))
        assert world.peers.state(OWNER) is None
        world.peers.forget(OWNER)
        assert world.peers.problem(OWNER) == "not followed"
