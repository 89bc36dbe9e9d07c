"""An aggregator and an agent in this process, whose methods take any bytes: what a listener does, without the sockets.

Their state lies in memory (tmpfs where there is one), and is made anew every so often, so that no input depends on many before it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import message_factory

from fedstudy.agent.board import Board
from fedstudy.agent.consent import Consent
from fedstudy.agent.ledger import Ledger
from fedstudy.agent.presence import Presence
from fedstudy.agent.relay import Relay
from fedstudy.agent.service import OperatorService, TrainerService
from fedstudy.agent.store import Store
from fedstudy.aggregator.admin_service import AdminService
from fedstudy.aggregator.engine import Engine
from fedstudy.aggregator.enrolment import Enrolments
from fedstudy.aggregator.service import FederationService
from fedstudy.aggregator.streams import Streams
from fedstudy.aggregator.view import aggregator_state
from fedstudy.errors import FedstudyError
from fedstudy.identity import Identity, Role
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.admin import Approval, Configure
from fedstudy.wire.auth import _decoded, _reading
from fedstudy.wire.blobs import BlobStore
from fedstudy.wire.framing import READERS, SUBMIT
from fuzz import examples

_MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
_NAME = "fedstudy-fuzz-"

CALLS = 64
"""So many calls go to one study."""

WAITING = {"Enroll", "Renew", "Follow", "Watch"}
"""Methods that wait for something by design."""
MOMENT, HANG = 0.002, 5.0  # seconds for those, and for the others


def room() -> Path:
    """A new folder of this process; libFuzzer ends a process without a word, so those of earlier ones are removed here."""
    for left in _MEMORY.glob(f"{_NAME}*"):
        if not Path("/proc", left.name.split("-")[2]).exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_NAME}{os.getpid()}-", dir=_MEMORY))


class Refused(Exception):
    """A typed status."""


class _Call:
    """What a handler sees of its call."""

    def __init__(self, identity: Identity) -> None:
        self._uri = identity.uri().encode()

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"peer_uri": [self._uri]}

    def add_done_callback(self, done: Any) -> None:
        pass

    async def send_initial_metadata(self, metadata: Any) -> None:
        pass

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> None:
        details.encode()
        raise Refused


class Side:
    """A process's services, under a caller who may call all of them."""

    def __init__(self) -> None:
        self.folder = room()
        self.services: dict[str, Any] = {}
        self.calls = 0

    def close(self) -> None:
        """Let go of the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    async def check(self) -> None:
        """Raise if the process would be broken by now."""
        raise NotImplementedError

    async def call(self, method: Any, messages: Sequence[bytes]) -> bool:
        """One call; whether it was taken. Raises what is a finding."""
        self.calls += 1
        role = {"Enroll": Role.INVITATION, "Admin": Role.OPERATOR}.get(method.name, Role.SITE)
        name = examples.SITES[0] if role is Role.SITE else "one" if role is Role.INVITATION else ""
        context = _Call(Identity("hub.example", "study", "study-1", role, name))
        handler = getattr(self.services[method.containing_service.name], method.name)
        waits, taken = method.name in WAITING, False
        try:
            async with asyncio.timeout(MOMENT if waits else HANG):
                await _run(handler, method, messages, context)
            taken = True
        except (Refused, FedstudyError):
            pass
        except TimeoutError:
            if not waits:
                raise
        await self.check()
        return taken


async def _run(handler: Any, method: Any, messages: Sequence[bytes], context: Any) -> None:
    path = f"/fedstudy.v1.{method.containing_service.name}/{method.name}"
    read = _reading(
        READERS[SUBMIT] if path == SUBMIT else message_factory.GetMessageClass(method.input_type).FromString
    )
    if method.client_streaming:
        await handler(_decoded(_stream([read(message) for message in messages])), context)
    elif method.server_streaming:
        async for reply in handler(_decoded(read(messages[0])), context):
            reply.SerializeToString()
    else:
        (await handler(_decoded(read(messages[0])), context)).SerializeToString()


async def _stream(messages: Sequence[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


class Hub(Side):
    """An aggregator whose sites are connected: it waits for their statistics."""

    instruction = "0000-000-statistics-hospital-a"

    async def start(self) -> None:
        """Begin a study."""
        self.engine = Engine(examples.plan_of(), self.folder, sites=examples.SITES)
        self.enrolments, streams = Enrolments(self.engine), Streams(self.engine)
        self.services = {
            "Federation": FederationService(self.engine, self.enrolments, streams),
            "Admin": AdminService(self.engine, self.enrolments),
        }
        for site in examples.SITES:
            streams.begin(site)
        self.work = asyncio.create_task(self.engine.run())
        await asyncio.sleep(0)

    async def check(self) -> None:
        """The engine runs, and the operator sees the state."""
        await asyncio.sleep(0)
        if self.work.done():
            self.work.result()
            raise AssertionError("the engine ended")
        aggregator_state(self.engine, self.enrolments).model_dump_json()

    def accepted(self) -> bool:
        """Whether the instruction was answered."""
        return self.engine.store.answer(self.instruction) is not None

    def close(self) -> None:
        """End the study."""
        self.work.cancel()
        self.engine.close()
        super().close()


class Hospital(Side):
    """An agent that has consented and offers its trainer an instruction."""

    instruction = Hub.instruction

    async def start(self) -> None:
        """Begin, as after a first connection."""
        self.store = Store(self.folder / "agent.db")
        self.relay = Relay(
            store=self.store,
            blobs=BlobStore(self.folder / "blobs"),
            ledger=Ledger(self.folder / "ledger.jsonl"),
            consent=Consent(self.store),
            board=Board(),
        )
        plan = examples.plan_of()
        self.relay.offer(plan.canonical(), plan.digest())
        self.relay.configure(Configure(policy=examples.policy(), approval=Approval(mode="Automatic")))
        self.relay.receive(pb.Instruction(id=self.instruction, kind=pb.STATISTICS))
        self.relay.fetched(self.instruction)
        self.services = {
            "Federation": TrainerService(self.relay, Presence(self.relay.board)),
            "Admin": OperatorService(self.relay, self.relay.board),
        }

    async def check(self) -> None:
        """The operator sees the state."""
        self.relay.board.state.model_dump_json(by_alias=True).encode()

    def accepted(self) -> bool:
        """Whether the instruction was answered."""
        return self.relay.answered(self.instruction)

    def close(self) -> None:
        """End the agent."""
        self.store.close()
        super().close()


METHODS = [
    method
    for service in ("Federation", "Admin")
    for method in pb.DESCRIPTOR.services_by_name[service].methods
]


class Served:
    """Calls to one kind of process; a new one takes over after CALLS calls, and after a decision of the operator."""

    def __init__(self, kind: type[Hub] | type[Hospital]) -> None:
        self._kind = kind
        self._loop = asyncio.new_event_loop()
        self._side: Hub | Hospital | None = None

    def call(self, number: int, messages: Sequence[bytes]) -> None:
        """Call a method by number."""
        method = METHODS[number % len(METHODS)]
        if self._kind is Hospital and method.name in ("Enroll", "Renew", "Export"):
            return  # an agent does not serve them
        self._loop.run_until_complete(self._call(method, messages))

    async def _call(self, method: Any, messages: Sequence[bytes]) -> None:
        if self._side is None:
            self._side = self._kind()
            await self._side.start()
        decided = await self._side.call(method, messages) and method.name == "Decide"
        if decided or self._side.calls >= CALLS:
            self._side.close()
            self._side = None
