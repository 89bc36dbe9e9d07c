"""The trainer's only connection: to its hospital's agent, over mutual TLS."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
from pydantic import ValidationError

from fedstudy.errors import ConnectionLostError, FedstudyError, PlanError
from fedstudy.logs import log
from fedstudy.plan import StudyPlan, digest_of
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.channel import TLSFiles, open_channel
from fedstudy.wire.federation_pb2_grpc import FederationStub
from fedstudy.wire.status import from_rpc_error
from fedstudy_trainer.settings import Settings

RETRY_SECONDS = 0.5

_log = logging.getLogger(__name__)


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[FederationStub]:
    """A stub of the agent's service; the channel is closed with the block."""
    channel = open_channel(
        settings.upstream, TLSFiles.from_folder(settings.tls), server_name=settings.upstream_name
    )
    try:
        yield FederationStub(channel)  # type: ignore[no-untyped-call]
    finally:
        await channel.close(grace=None)


async def offered_plan(stub: FederationStub, settings: Settings) -> tuple[StudyPlan, str]:
    """The plan that the agent offers, and its digest.

    Raises:
        ConnectionLostError: the agent was not there, or had no plan, within `connect_timeout` seconds.
        PlanError: what it offers is not a plan, or not the one of its digest.
    """
    deadline = time.monotonic() + settings.connect_timeout
    while True:
        left = deadline - time.monotonic()
        try:
            reply = await stub.Offer(pb.OfferRequest(), timeout=max(1.0, left), wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            fault = _unreachable(error, settings)
            if not isinstance(fault, ConnectionLostError) or deadline - time.monotonic() <= RETRY_SECONDS:
                raise fault from error
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return _parsed(reply), reply.digest


async def instructions(
    stub: FederationStub, digest: str, settings: Settings, busy: Callable[[], bool]
) -> AsyncIterator[pb.Instruction]:
    """Instructions as they come, over as many streams as it takes; those not yet answered come again on each.

    Args:
        digest: of the plan that the trainer runs.
        busy: whether there is work to hand over, for which it is worth waiting until the agent is back.

    Raises:
        ConnectionLostError: the agent was away for more than `connect_timeout` seconds, and there was no work.
        FedstudyError: the agent refuses, for example because the plan has changed.
    """
    away_since: float | None = None
    while True:
        stream = stub.Follow(pb.FollowRequest(plan_digest=digest))
        try:
            await stream.initial_metadata()
            if not stream.done():  # a call that has failed has metadata too, but is done
                away_since = None
            async for instruction in stream:
                yield instruction
            fault: FedstudyError = ConnectionLostError(f"The agent at {settings.upstream} ended the stream.")
        except grpc.aio.AioRpcError as error:
            fault = _unreachable(error, settings)
        now = time.monotonic()
        away_since = now if away_since is None else away_since
        gone = now - away_since > settings.connect_timeout and not busy()
        if gone or not isinstance(fault, ConnectionLostError):
            raise fault
        log(_log, logging.WARNING, "stream lost", reason=fault.message)
        await asyncio.sleep(RETRY_SECONDS)


def parameters_of(instruction: pb.Instruction) -> dict[str, bool | int | float | str]:
    """An instruction's parameters.

    Raises:
        PlanError: they are not a JSON object of numbers, strings and booleans.
    """
    try:
        value = json.loads(instruction.parameters or b"{}")
    except ValueError:
        value = None
    if not isinstance(value, dict) or not all(isinstance(v, (bool, int, float, str)) for v in value.values()):
        raise PlanError(
            f"The parameters of instruction {instruction.id} are malformed.",
            "Update hub and site to the same version.",
        )
    return value


def _parsed(reply: pb.OfferReply) -> StudyPlan:
    digest = digest_of(reply.plan)
    if digest != reply.digest:
        raise PlanError(f"The agent offers a plan whose digest is {digest} and not {reply.digest}.")
    try:
        return StudyPlan.parse(reply.plan)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PlanError(
            f"The plan is malformed: {where}: {first['msg']}.", "Update the trainer, or correct the study."
        ) from error


def _unreachable(error: grpc.aio.AioRpcError, settings: Settings) -> FedstudyError:
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return ConnectionLostError(
            f"The agent at {settings.upstream} cannot be reached: {error.details()}.",
            "See whether the agent runs and whether certificates and network policies allow the connection.",
        )
    return from_rpc_error(error)
