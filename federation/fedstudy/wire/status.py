"""Errors over the wire: the same error, with its message and its remedy, on both sides of an RPC."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc

from fedstudy.errors import (
    ConnectionLostError,
    DataError,
    FedstudyError,
    InterruptedByUserError,
    ManifestError,
    NoSpaceError,
    PlanError,
    PortInUseError,
    RefusedError,
    StudyFailedError,
    UpdateError,
)

TYPE_KEY = "fedstudy-error"
REMEDY_KEY = "fedstudy-remedy-bin"

_TYPES: dict[str, type[FedstudyError]] = {
    kind.__name__: kind
    for kind in (
        ManifestError, DataError, PlanError, RefusedError, UpdateError, ConnectionLostError,
        NoSpaceError, PortInUseError, StudyFailedError, InterruptedByUserError,
    )
}  # fmt: skip
_CUT = (
    "RST_STREAM",
    "Stream removed",
    "Internal error from Core",
)  # details of statuses when a connection breaks
_MAX_TEXT = 1200  # bytes; with percent-encoding still within HTTP/2's usual 16 KiB of headers

_TRANSPORT = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # untyped: grpc's own limit of concurrent calls
)


async def abort(context: Any, error: FedstudyError) -> NoReturn:
    """End an RPC with a typed status.

    Args:
        context: the RPC's `grpc.aio.ServicerContext`.
        error: its class, message and remedy travel.

    Raises:
        grpc.aio.AbortError: always; grpc turns it into the status.
    """
    trailers = ((TYPE_KEY, type(error).__name__), (REMEDY_KEY, _short(error.remedy).encode()))
    await context.abort(grpc.StatusCode[error.grpc_status], _short(error.message), trailing_metadata=trailers)
    raise AssertionError("abort returned")


def from_rpc_error(error: grpc.aio.AioRpcError) -> FedstudyError:
    """The error that the other side gave to `abort`; for a status of grpc's own, what it means to a person."""
    code, details = error.code(), error.details() or ""
    metadata: Any = error.trailing_metadata() or ()  # pairs; the stubs say otherwise
    trailers: dict[str, str | bytes] = dict(metadata)
    if kind := _TYPES.get(_text(trailers.get(TYPE_KEY, ""))):
        return kind(details, _text(trailers.get(REMEDY_KEY, b"")))
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
        return RefusedError(f"The peer refused: {details}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return RefusedError(f"The peer does not offer this: {details}", "Use the same release on both sides.")
    if code in _TRANSPORT or any(words in details for words in _CUT):
        return ConnectionLostError(
            f"The peer cannot be reached ({code.name}): {details}",
            "Check the address and the network, and that neither side's certificate has expired or is of another study.",
        )
    return FedstudyError(f"The peer failed ({code.name}): {details}", "See the peer's log.")


def _short(text: str) -> str:
    return text.encode(errors="replace")[:_MAX_TEXT].decode(errors="ignore")


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
