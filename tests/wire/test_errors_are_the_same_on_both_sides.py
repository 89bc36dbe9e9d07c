"""Typed status: class, message and remedy of an error cross the wire; a status of grpc's own is put into plain words."""

from __future__ import annotations

import socket
from typing import Any

import grpc
import pytest

from fedstudy import errors
from fedstudy.errors import ConnectionLostError, FedstudyError, RefusedError
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.channel import open_channel
from fedstudy.wire.federation_pb2_grpc import AdminStub
from fedstudy.wire.status import from_rpc_error

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, FedstudyError) and kind is not FedstudyError
]


async def _error_of_offer(stub: Any) -> FedstudyError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Offer(pb.OfferRequest(), timeout=20)
    return from_rpc_error(caught.value)


async def _error_of_follow(stub: Any) -> FedstudyError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.Follow(pb.FollowRequest(), timeout=20):
            pass
    return from_rpc_error(caught.value)


@pytest.mark.parametrize("ask", [_error_of_offer, _error_of_follow])
async def test_an_error_that_a_handler_raises_is_raised_again(study: Any, ask: Any) -> None:
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as stub:
        for kind in KINDS:
            aggregator.servicer.fault = kind(
                "Zeile 3: „größer“ als 10 %\nund mehr", "Abhilfe: kleiner → besser"
            )
            error = await ask(stub)
            assert type(error) is kind
            assert error.message == "Zeile 3: „größer“ als 10 %\nund mehr"
            assert error.remedy == "Abhilfe: kleiner → besser"


async def test_a_very_long_message_is_cut_and_arrives(study: Any) -> None:
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as stub:
        aggregator.servicer.fault = errors.UpdateError("ü" * 100_000, "€" * 100_000)
        error = await _error_of_offer(stub)
        assert type(error) is errors.UpdateError
        assert error.message == "ü" * 600 and error.remedy == "€" * 400


async def test_a_fault_of_the_peer_is_not_taken_for_ours(study: Any) -> None:
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as stub:
        aggregator.servicer.fault = KeyError("oops")
        error = await _error_of_offer(stub)
        assert type(error) is FedstudyError and "UNKNOWN" in error.message


async def test_a_call_that_the_peer_does_not_know_is_explained(study: Any) -> None:
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Report(pb.ReportRequest())
        assert isinstance(from_rpc_error(caught.value), FedstudyError)


async def test_a_service_that_is_not_there_is_explained(study: Any) -> None:
    async with (
        study.aggregator() as aggregator,
        open_channel(aggregator.target, study.client(), server_name="aggregator") as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await AdminStub(channel).Decide(pb.DecideRequest())
        error = from_rpc_error(caught.value)
        assert isinstance(error, RefusedError) and "does not offer" in error.message


async def test_a_peer_that_is_not_there_is_a_lost_connection(study: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # taken and not listening: nobody answers
        async with study.stub(f"127.0.0.1:{probe.getsockname()[1]}") as stub:
            error = await _error_of_offer(stub)
    assert isinstance(error, ConnectionLostError) and error.remedy
