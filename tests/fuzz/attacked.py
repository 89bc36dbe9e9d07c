"""A real aggregator on loopback with mutual TLS, honest sites in the same process, and one attacker on the wire."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from fedstudy import tensors
from fedstudy.aggregator.admin_service import AdminService
from fedstudy.aggregator.engine import Engine
from fedstudy.aggregator.enrolment import Enrolments
from fedstudy.aggregator.server import RULES
from fedstudy.aggregator.service import FederationService
from fedstudy.aggregator.streams import Streams
from fedstudy.errors import UpdateError
from fedstudy.identity import Identity, Role
from fedstudy.tensors import Blob
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.admin import STATE
from fedstudy.wire.channel import MAX_MESSAGE, TLSFiles, listen, open_channel
from fedstudy.wire.federation_pb2_grpc import add_AdminServicer_to_server, add_FederationServicer_to_server
from fedstudy.wire.transfer import OFFSET_KEY
from fedstudy_operator.pki import KeyPair, issue, make_authority

DOMAIN, UID, ATTACKER = "hub.example", "study-1", "hospital-a"
SECONDS = 10.0
"""Deadline of a call; one that reaches it hangs."""

_LOST = "Internal error from Core"
"""What grpc.aio (1.85) says in place of the server's status where that comes while bytes are still being written."""
_TRIES = 10
TYPED = {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "PERMISSION_DENIED", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED"}  # fmt: skip


def fakes() -> Any:
    """The fake sites of the aggregator's tests."""
    path = Path(__file__).parent.parent / "aggregator" / "conftest.py"
    spec = importlib.util.spec_from_file_location("fake_sites_of_the_aggregator", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FAKES = fakes()


def as_it_is(message: bytes) -> bytes:
    """No coder: any bytes can be sent."""
    return message


class Caller:
    """The attacker's connection under one certificate."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        # The channel's own methods, not those that fedstudy gives it: they would encode.
        self._unary = type(channel).unary_unary.__get__(channel)
        self._serve = type(channel).unary_stream.__get__(channel)
        self._upload = type(channel).stream_unary.__get__(channel)

    async def unary(self, method: str, message: bytes, seconds: float = SECONDS) -> bytes:
        reply: bytes = await self._unary(method, as_it_is, as_it_is)(message, timeout=seconds)
        return reply

    async def serve(
        self, method: str, message: bytes, most: int = 3, seconds: float = SECONDS
    ) -> list[bytes]:
        call = self._serve(method, as_it_is, as_it_is)(message, timeout=seconds)
        got: list[bytes] = []
        async for reply in call:
            got.append(reply)
            if len(got) == most:
                call.cancel()
                break
        return got

    async def upload(self, method: str, messages: Sequence[bytes]) -> bytes:
        async def stream() -> Any:
            for message in messages:
                yield message

        for _ in range(_TRIES):
            try:
                reply: bytes = await self._upload(method, as_it_is, as_it_is)(stream(), timeout=SECONDS)
                return reply
            except grpc.aio.AioRpcError as error:
                if error.details() != _LOST:
                    raise
        raise AssertionError(f"the status was lost {_TRIES} times")

    async def upload_in_turn(self, method: str, header: bytes, rest: Callable[[int], bytes]) -> bytes:
        """As an agent does it: nothing after the header before the server has said at which byte to begin."""
        for _ in range(_TRIES):
            call = self._upload(method, as_it_is, as_it_is)(timeout=SECONDS)
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the call's end says why
                await call.write(header)
                begin = dict(await call.initial_metadata() or ()).get(OFFSET_KEY)
                if begin is not None:
                    await call.write(rest(int(begin)))
                    await call.done_writing()
            try:
                reply: bytes = await call
                return reply
            except grpc.aio.AioRpcError as error:
                if error.details() != _LOST:
                    raise
        raise AssertionError(f"the status was lost {_TRIES} times")


async def outcome(call: Awaitable[Any]) -> str:
    """`OK`, or the name of the status; fails where the status is not typed, or is a fault or a hang of ours."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        code, details = error.code().name, error.details()
        trailers: dict[Any, Any] = dict(error.trailing_metadata() or ())  # type: ignore[arg-type]
        told = "fedstudy-error" in trailers or "larger than max" in str(details)
        assert code in TYPED and told, f"{code}: {details} {trailers}"
        return str(code)
    return "OK"


class Attacked:
    """The study under attack; its event loop runs in a thread, so that plain functions can attack it.

    Attributes:
        engine: of the aggregator, to look at.
        port: where it listens.
    """

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop, **federation: Any) -> None:
        self.folder, self.loop = folder, loop
        plan = FAKES.plan_of(**{"rounds": 500, "minSites": 2, "evaluateEvery": 500, **federation})
        self.engine = Engine(plan, folder / "state", sites=FAKES.SITES)
        self.sites = FAKES.FakeSites(self.engine)
        self._authority = make_authority("study", 2)
        self._callers: dict[str, tuple[Caller, grpc.aio.Channel]] = {}
        self.port = 0

    def now(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run on the study's loop; fails if it takes longer than a hang would."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(6 * SECONDS)

    def answered(self, instruction: str) -> Any:
        """The accepted answer's row; None: there is none."""

        async def body() -> Any:
            return self.engine.store.answer(instruction)

        return self.now(body())

    def status(self, call: Callable[[], Awaitable[Any]]) -> str:
        """The outcome of a call."""

        async def body() -> str:
            return await outcome(call())

        found: str = self.now(body())
        return found

    def caller(self, role: Role = Role.SITE, name: str = ATTACKER) -> Caller:
        """A connection with the certificate of a role."""

        async def connect() -> tuple[Caller, grpc.aio.Channel]:
            identity = Identity(
                DOMAIN, "study", UID, role, name if role in (Role.SITE, Role.INVITATION) else ""
            )
            tls = self._files(
                issue(self._authority, identity=identity, dns_names=(), days=1, server=False, client=True)
            )
            channel = open_channel(f"127.0.0.1:{self.port}", tls, server_name="aggregator")
            return Caller(channel), channel

        key = f"{role.value}-{name}"
        if key not in self._callers:
            self._callers[key] = self.now(connect())
        return self._callers[key][0]

    def asked(self, *, kind: str = "") -> tuple[str, bytes, Blob]:
        """The attacker's open instruction and a right answer to it. The others answer until there is one (of a kind)."""

        async def body() -> tuple[str, bytes, Blob]:
            async with asyncio.timeout(6 * SECONDS):
                while True:
                    await self.sites.settled()
                    stage = self.sites.stage_of(ATTACKER)
                    if stage is not None and kind in ("", stage.kind.value):
                        break
                    assert not self.engine.state.over, self.engine.state
                    for site in FAKES.SITES:
                        if self.sites.stage_of(site):
                            await self.sites.answer(site)
            path = self.engine.input_path(stage)
            answer = FAKES.answer_tensors(stage, ATTACKER, tensors.read(path) if path else None)
            data = tensors.encode(answer, {"attack": "none"})
            return stage.instruction(ATTACKER), data, digest_of(data)

        found: tuple[str, bytes, Blob] = self.now(body())
        return found

    def completes(self, rounds: int = 1) -> None:
        """All sites answer for some rounds more, and the operator still sees the state."""

        async def body() -> None:
            aim = self.engine.state.round + rounds
            async with asyncio.timeout(6 * SECONDS):
                while self.engine.state.round < aim and not self.engine.state.over:
                    await self.sites.settled()
                    for site in FAKES.SITES:
                        if self.sites.stage_of(site):
                            await self.sites.answer(site)
            self.engine.flush_traffic()
            assert self.engine.state.phase.value in ("Training", "Complete"), self.engine.state
            assert self.engine.state.connected == set(FAKES.SITES)

        self.now(body())
        self.seen()

    def ends(self) -> None:
        """All honest sites answer until the study is over, whichever way, and the operator still sees the state."""

        async def body() -> None:
            async with asyncio.timeout(6 * SECONDS):
                while not self.engine.state.over:
                    await self.sites.settled()
                    for site in FAKES.SITES:
                        if self.sites.stage_of(site):
                            await self.answer_or_fail(site)

        self.now(body())
        self.seen()

    async def answer_or_fail(self, site: str) -> None:
        """As a trainer does: an answer that cannot be made, or is refused, is a failure of the site."""
        stage = self.sites.stage_of(site)
        try:
            with np.errstate(all="ignore"):
                await self.sites.answer(site)
        except UpdateError as error:
            if stage is not None and self.sites.stage_of(site) is stage:
                self.engine.fail(site, stage.instruction(site), "UpdateError", str(error))

    def seen(self) -> None:
        """The operator sees the state."""
        watch = self.caller(Role.OPERATOR, "")
        [document] = self.now(watch.serve("/fedstudy.v1.Admin/Watch", b"", most=1))
        STATE.validate_json(pb.State.FromString(document).document)

    async def life(self, ready: threading.Event, stop: asyncio.Event) -> None:
        identity = Identity(DOMAIN, "study", UID, Role.AGGREGATOR)
        pair = issue(
            self._authority, identity=identity, dns_names=("aggregator",), days=1, server=True, client=False
        )
        enrolments = Enrolments(self.engine)
        federation = FederationService(self.engine, enrolments, Streams(self.engine))
        admin = AdminService(self.engine, enrolments)

        def add(server: Any) -> None:
            add_FederationServicer_to_server(federation, server)  # type: ignore[no-untyped-call]
            add_AdminServicer_to_server(admin, server)  # type: ignore[no-untyped-call]

        listener = await listen(
            "127.0.0.1:0", self._files(pair), add, rules=RULES, on_refusal=lambda refusal: None
        )
        self.port = listener.port
        async with asyncio.TaskGroup() as group:
            work = group.create_task(self.engine.run())
            self.sites.connect(*FAKES.SITES)
            ready.set()
            waiting = group.create_task(stop.wait())
            await asyncio.wait([work, waiting], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                waiting.cancel()
                await work  # the engine must not end by itself: its error is the finding
            work.cancel()
        for _, channel in self._callers.values():
            await channel.close()
        self.engine.stop()
        await listener.stop(0)
        self.engine.close()

    def _files(self, pair: KeyPair) -> TLSFiles:
        folder = self.folder / f"tls-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        (folder / "tls.crt").write_text(pair.certificate_pem)
        (folder / "tls.key").write_text(pair.key_pem)
        (folder / "ca.crt").write_text(self._authority.certificate_pem)
        return TLSFiles.from_folder(folder)


def digest_of(data: bytes) -> Blob:
    """A blob's name by content."""

    return Blob.of(data)


@contextmanager
def attacked(folder: Path, **federation: Any) -> Iterator[Attacked]:
    """A study for the length of the block; an error of the aggregator itself is raised at its end."""
    ready, errors = threading.Event(), list[BaseException]()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    study: list[Attacked] = []

    def body() -> None:
        asyncio.set_event_loop(loop)
        try:
            study.append(Attacked(folder, loop, **federation))
            loop.run_until_complete(study[0].life(ready, stop))
        except BaseException as error:  # noqa: BLE001 - given to the test
            errors.append(error)
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=body)
    thread.start()
    ready.wait(30)
    try:
        if errors:
            raise errors[0]
        yield study[0]
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)
        thread.join(30)
    if errors:
        raise errors[0]


__all__ = [
    "ATTACKER",
    "FAKES",
    "MAX_MESSAGE",
    "TYPED",
    "Attacked",
    "Caller",
    "attacked",
    "digest_of",
    "outcome",
]
