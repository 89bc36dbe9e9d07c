"""Who may call what: every RPC is checked against the identity in the caller's certificate before its handler runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from fedstudy.errors import FedstudyError, RefusedError, UpdateError
from fedstudy.identity import Identity, Role
from fedstudy.wire.framing import READERS, SUBMIT, serialise
from fedstudy.wire.status import abort

Rules = Mapping[str, frozenset[Role]]
"""Full method name, for example `/fedstudy.v1.Federation/Enroll` → the roles that may call it. A method not named is refused."""


@dataclass(frozen=True)
class Refusal:
    """A connection or call that was refused.

    Attributes:
        time: RFC 3339, UTC.
        peer: the identity in its certificate; else its address; empty for a failed handshake, where grpc tells neither.
        method: full method name; empty for a failed handshake.
        reason: in plain words.
    """

    time: str
    peer: str
    method: str
    reason: str


@dataclass(frozen=True)
class Expectation:
    """What every caller's identity must share with the listener's own."""

    trust_domain: str
    scope: str
    uid: str


def now() -> str:
    """The time as RFC 3339 with milliseconds, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def peer(context: Any) -> Identity:
    """The caller's identity, out of its verified certificate.

    Args:
        context: the RPC's `grpc.aio.ServicerContext`.

    Raises:
        RefusedError: the certificate carries no identity of fedstudy, or more than one URI.
    """
    uris = context.auth_context().get("peer_uri", [])
    if len(uris) != 1:
        raise RefusedError(f"The client certificate carries {len(uris)} identities, expected one.")
    return Identity.parse(uris[0].decode(errors="replace"))


def authorise(identity: Identity, method: str, rules: Rules, expect: Expectation) -> None:
    """Pass, or say why not.

    Raises:
        RefusedError: the identity is of another trust domain, study or participant, or its role may not call the method.
    """
    if identity.trust_domain != expect.trust_domain:
        reason = f"it is of trust domain {identity.trust_domain!r}, expected {expect.trust_domain!r}"
    elif (identity.scope, identity.uid) != (expect.scope, expect.uid):
        reason = f"it is of {identity.scope} {identity.uid!r}, expected {expect.scope} {expect.uid!r}"
    elif identity.role not in rules.get(method, frozenset()):
        reason = f"role {identity.role.value!r} may not"
    else:
        return
    raise RefusedError(
        f"{identity.uri()} may not call {method}: {reason}.", "Use the certificate made for this peer."
    )


def _require_tls_1_3(context: Any) -> None:
    """The second lock: the first, in `fedstudy/__init__.py`, is open in a process that imported grpc before us."""
    version = context.auth_context().get("ssl_tls_version", [b"unknown"])[0].decode()
    if version != "TLSv1.3":
        raise RefusedError(f"The connection uses {version}; only TLSv1.3 is spoken here.")


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Checks each call before its handler, and gives a handler's FedstudyError a typed status.

    Handlers are coroutines or asynchronous generators, as grpc.aio has them.
    """

    def __init__(self, rules: Rules, expect: Expectation, on_refusal: Callable[[Refusal], None]) -> None:
        self._rules, self._expect, self._on_refusal = rules, expect, on_refusal

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """The handler that grpc would call, behind the check."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # grpc answers UNIMPLEMENTED
        method = handler_call_details.method
        if handler.request_streaming:
            behaviour = handler.stream_stream or handler.stream_unary
        else:
            behaviour = handler.unary_stream or handler.unary_unary
        # A response is serialised by its own method: a Frame is its bytes already.
        reader = READERS[SUBMIT] if method == SUBMIT else handler.request_deserializer
        coders = _reading(reader), serialise
        if handler.response_streaming:
            streaming = self._streaming(behaviour, method)
            if handler.request_streaming:
                return grpc.stream_stream_rpc_method_handler(streaming, *coders)
            return grpc.unary_stream_rpc_method_handler(streaming, *coders)
        unary = self._unary(behaviour, method)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(unary, *coders)
        return grpc.unary_unary_rpc_method_handler(unary, *coders)

    def _unary(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        async def checked(request: Any, context: Any) -> Any:
            await self._check(context, method)
            try:
                return await behaviour(_decoded(request), context)
            except FedstudyError as error:
                await abort(context, error)

        return checked

    def _streaming(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        async def checked(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._check(context, method)
            try:
                async for response in behaviour(_decoded(request), context):
                    yield response
                    del response  # a chunk is not to be held while its stream waits
            except FedstudyError as error:
                await abort(context, error)

        return checked

    async def _check(self, context: Any, method: str) -> None:
        who = context.peer()
        try:
            identity = peer(context)
            who = identity.uri()
            _require_tls_1_3(context)
            authorise(identity, method, self._rules, self._expect)
        except RefusedError as error:
            self._on_refusal(Refusal(now(), who, method, error.message))
            await abort(context, error)


class _Malformed:
    """In place of a message that is none: grpc would answer UNKNOWN, and log a traceback, for what a caller did wrong."""


def _reading(reader: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(message: bytes) -> Any:
        try:
            return reader(message)
        except DecodeError:
            return _Malformed()

    return read


def _decoded(request: Any) -> Any:
    """The request, or the stream of them.

    Raises:
        UpdateError: it is no message of this protocol; from a stream, when its turn comes.
    """
    return _each_decoded(request) if hasattr(request, "__aiter__") else _well_formed(request)


async def _each_decoded(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _well_formed(request)
        del request


def _well_formed(request: Any) -> Any:
    if isinstance(request, _Malformed):
        raise UpdateError("The message is not one of this protocol.", "Use the same release on both sides.")
    return request
