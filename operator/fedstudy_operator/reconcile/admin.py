"""What aggregators and agents say of themselves: one Watch stream for each, the latest state in memory, and decisions sent back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import grpc
from pydantic import ValidationError

from fedstudy.errors import ConnectionLostError, FedstudyError
from fedstudy.logs import log
from fedstudy.wire.admin import (
    DECISION,
    STATE,
    AcceptEnrolment,
    AgentState,
    AggregatorState,
    Configure,
    RefuseEnrolment,
    SetSites,
    Suspend,
)
from fedstudy.wire.channel import TLSFiles, open_channel
from fedstudy.wire.federation_pb2 import DecideRequest, WatchRequest
from fedstudy.wire.federation_pb2_grpc import AdminStub
from fedstudy.wire.status import from_rpc_error
from fedstudy_operator.cluster import Key

_logger = logging.getLogger(__name__)

AnyState = AggregatorState | AgentState
AnyDecision = AcceptEnrolment | RefuseEnrolment | SetSites | Suspend | Configure
DECIDE_SECONDS = 10.0
_SHORTEST, _LONGEST = 0.2, 5.0


@dataclass(frozen=True)
class Endpoint:
    """Where an aggregator or an agent is, and who we are to it. Certificates are PEM."""

    address: str
    server_name: str
    certificate: str
    key: str = field(repr=False)
    authority: str


class Peers(Protocol):
    """The aggregators and agents of an operator, each by the resource that owns it."""

    def follow(self, owner: Key, endpoint: Endpoint) -> None:
        """Keep a stream to the owner's process; again with another endpoint: a new stream."""
        ...

    def forget(self, owner: Key) -> None:
        """Close the stream."""
        ...

    def state(self, owner: Key) -> AnyState | None:
        """What it said last; None where it never has."""
        ...

    def epoch(self, owner: Key) -> int:
        """How often a stream has begun; 0 where there is none now."""
        ...

    def problem(self, owner: Key) -> str:
        """Why there is no stream; empty where there is one."""
        ...

    async def decide(self, owner: Key, decision: AnyDecision) -> None:
        """Tell it. Raises FedstudyError."""
        ...


@dataclass
class _Peer:
    endpoint: Endpoint
    task: asyncio.Task[None] | None = None
    channel: grpc.aio.Channel | None = None
    state: AnyState | None = None
    epochs: int = 0
    open: bool = False
    problem: str = "not connected yet"


class AdminPeers:
    """Peers over gRPC.

    Args:
        resolve: a Service's address → the address to dial.
        on_change: told whose state has changed.
        folder: for certificates, our own eyes only.
    """

    def __init__(
        self, *, resolve: Callable[[str], str], on_change: Callable[[Key], None], folder: Path
    ) -> None:
        self._resolve = resolve
        self._on_change = on_change
        self._folder = folder
        self._peers: dict[Key, _Peer] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Keep the streams until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for owner in list(self._peers):
                self._begin(owner)
            await asyncio.Event().wait()

    def follow(self, owner: Key, endpoint: Endpoint) -> None:
        """Keep a stream to the owner's process; again with another endpoint: a new stream."""
        present = self._peers.get(owner)
        if present is not None and present.endpoint == endpoint:
            return
        state = present.state if present else None
        self.forget(owner)
        self._peers[owner] = _Peer(endpoint, state=state)
        self._begin(owner)

    def forget(self, owner: Key) -> None:
        """Close the stream."""
        peer = self._peers.pop(owner, None)
        if peer is not None and peer.task is not None:
            peer.task.cancel()

    def state(self, owner: Key) -> AnyState | None:
        """What it said last; None where it never has."""
        peer = self._peers.get(owner)
        return peer.state if peer else None

    def epoch(self, owner: Key) -> int:
        """How often a stream has begun; 0 where there is none now."""
        peer = self._peers.get(owner)
        return peer.epochs if peer and peer.open else 0

    def problem(self, owner: Key) -> str:
        """Why there is no stream; empty where there is one."""
        peer = self._peers.get(owner)
        return peer.problem if peer else "not followed"

    async def decide(self, owner: Key, decision: AnyDecision) -> None:
        """Tell it.

        Raises:
            ConnectionLostError: it cannot be reached now.
            FedstudyError: it refused.
        """
        peer = self._peers.get(owner)
        if peer is None or peer.channel is None or not peer.open:
            raise ConnectionLostError(f"{owner} cannot be told now: {self.problem(owner)}.")
        request = DecideRequest(document=DECISION.dump_json(decision, by_alias=True))
        try:
            await AdminStub(peer.channel).Decide(request, timeout=DECIDE_SECONDS)  # type: ignore[no-untyped-call]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    def _begin(self, owner: Key) -> None:
        if self._group is not None:
            peer = self._peers[owner]
            peer.task = self._group.create_task(self._keep(owner, peer), name=f"watch {owner}")

    async def _keep(self, owner: Key, peer: _Peer) -> None:
        """Open the stream, and again whenever it breaks."""
        wait = _SHORTEST
        while True:
            try:
                await self._stream(owner, peer)
            except grpc.aio.AioRpcError as error:
                self._lost(owner, peer, from_rpc_error(error).message)
            except FedstudyError as error:
                self._lost(owner, peer, error.message)
            except ValidationError as error:
                log(_logger, logging.ERROR, "A state cannot be read.", peer=str(owner), error=str(error))
                self._lost(owner, peer, f"its state cannot be read: {error.error_count()} faults")
            else:
                self._lost(owner, peer, "the stream has ended")
            wait = _SHORTEST if peer.state is not None else min(_LONGEST, wait * 2)
            await asyncio.sleep(wait)

    def _lost(self, owner: Key, peer: _Peer, problem: str) -> None:
        changed = peer.open or peer.problem != problem
        peer.open, peer.channel, peer.problem = False, None, problem
        if changed:
            self._on_change(owner)

    async def _stream(self, owner: Key, peer: _Peer) -> None:
        tls = await asyncio.to_thread(self._write, owner, peer.endpoint)
        target = self._resolve(peer.endpoint.address)
        async with open_channel(target, tls, server_name=peer.endpoint.server_name) as channel:
            async for message in AdminStub(channel).Watch(WatchRequest()):  # type: ignore[no-untyped-call]
                state = STATE.validate_json(message.document)
                if not peer.open:
                    peer.open, peer.channel, peer.problem = True, channel, ""
                    peer.epochs += 1
                if state != peer.state or peer.epochs == 1:
                    peer.state = state
                    self._on_change(owner)

    def _write(self, owner: Key, endpoint: Endpoint) -> TLSFiles:
        folder = self._folder / f"{owner.kind}.{owner.namespace}.{owner.name}"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        files = {"tls.crt": endpoint.certificate, "tls.key": endpoint.key, "ca.crt": endpoint.authority}
        for name, text in files.items():
            path = folder / name
            path.touch(mode=0o600)
            path.write_text(text)
        return TLSFiles.from_folder(folder)
