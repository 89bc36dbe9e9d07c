"""The agent as a whole: its parts put together, started, and stopped in order."""

from __future__ import annotations

import asyncio
import fcntl
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from fedstudy.agent.board import Board
from fedstudy.agent.consent import Consent
from fedstudy.agent.enrolment import SiteCertificate
from fedstudy.agent.figures import AgentFigures
from fedstudy.agent.ledger import Head, Ledger
from fedstudy.agent.presence import Presence
from fedstudy.agent.relay import Relay
from fedstudy.agent.service import RULES, OperatorService, TrainerService
from fedstudy.agent.settings import Settings
from fedstudy.agent.store import Store
from fedstudy.agent.upstream import Upstream
from fedstudy.errors import RefusedError
from fedstudy.logs import log
from fedstudy.metrics import serving
from fedstudy.wire.auth import Refusal
from fedstudy.wire.blobs import BlobStore
from fedstudy.wire.channel import TLSFiles, listen
from fedstudy.wire.federation_pb2_grpc import add_AdminServicer_to_server, add_FederationServicer_to_server

_log = logging.getLogger(__name__)

GRACE_SECONDS = 2.0
"""How long calls under way may end by themselves when the agent stops."""


@dataclass(frozen=True)
class Agent:
    """A running agent.

    Attributes:
        port: where it listens.
    """

    port: int
    relay: Relay
    board: Board


@asynccontextmanager
async def agent(settings: Settings) -> AsyncIterator[Agent]:
    """Run an agent for the length of the block.

    Raises:
        PortInUseError: the port to listen on is taken.
        RefusedError: the ledger was changed, or another agent uses the same state.
    """
    with ExitStack() as stack:
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        _lock(settings.state / "lock", stack)
        store = Store(settings.state / "agent.db")
        stack.callback(store.close)
        ledger = Ledger(settings.state / "ledger.jsonl", known_head=Head.parse(store.fact("ledger").decode()))
        board = Board()
        relay = Relay(
            store=store,
            blobs=BlobStore(settings.state / "blobs"),
            ledger=ledger,
            consent=Consent(store),
            board=board,
        )
        relay.note_head()
        presence = Presence(board, settings.silent)
        certificate = SiteCertificate(settings.state / "identity", site=settings.site)
        upstream = Upstream(settings, certificate=certificate, relay=relay, board=board)
        refusals = _Refusals()
        figures = AgentFigures(board, settings.state, lambda: refusals.count)
        listener = await listen(
            settings.listen,
            TLSFiles.from_folder(settings.tls),
            _services(relay, board, presence),
            rules=RULES,
            on_refusal=refusals.note,
        )
        log(_log, logging.INFO, "listening", port=listener.port)
        try:
            async with serving(settings.metrics, figures), asyncio.TaskGroup() as group:
                # A fault of ours in a task ends the block, and so the process.
                tasks = [group.create_task(work) for work in (upstream.run(), presence.watch())]
                yield Agent(listener.port, relay, board)
                for task in tasks:
                    task.cancel()
        finally:
            relay.close()
            board.close()
            await listener.stop(GRACE_SECONDS)


def _lock(path: Path, stack: ExitStack) -> None:
    """Two agents on one state would each break the other's ledger."""
    file = stack.enter_context(path.open("w"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        message = f"Another agent uses {path.parent}."
        raise RefusedError(message, "Give each agent a state folder of its own.") from None


class _Refusals:
    """Logs them, and counts."""

    def __init__(self) -> None:
        self.count = 0

    def note(self, refusal: Refusal) -> None:
        self.count += 1
        log(
            _log,
            logging.WARNING,
            "refused",
            time=refusal.time,
            peer=refusal.peer,
            method=refusal.method,
            reason=refusal.reason,
        )


def _services(relay: Relay, board: Board, presence: Presence) -> Callable[[grpc.aio.Server], None]:
    def add(server: grpc.aio.Server) -> None:
        add_FederationServicer_to_server(TrainerService(relay, presence), server)  # type: ignore[no-untyped-call]
        add_AdminServicer_to_server(OperatorService(relay, board), server)  # type: ignore[no-untyped-call]

    return add
