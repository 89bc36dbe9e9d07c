"""Every RPC of a hospital's agent under arbitrary messages of its trainer and its operator; and arbitrary words of the hub."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from attacked import Caller, outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from messages import messages, raw

from fedstudy.agent.board import Board
from fedstudy.agent.consent import Consent
from fedstudy.agent.ledger import Ledger
from fedstudy.agent.relay import Relay
from fedstudy.agent.store import Store
from fedstudy.errors import FedstudyError
from fedstudy.identity import Role
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.blobs import BlobStore
from fedstudy.wire.channel import TLSFiles, open_channel

TIER = settings(
    derandomize=True, database=None, deadline=None, max_examples=40, suppress_health_check=list(HealthCheck)
)


def agent_tests() -> Any:
    path = Path(__file__).parent.parent / "agent" / "conftest.py"
    spec = importlib.util.spec_from_file_location("world_of_the_agents_tests", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


AGENT = agent_tests()
world = AGENT.world


async def test_any_call_of_the_trainer_and_of_the_operator(world: Any) -> None:
    loop = asyncio.get_running_loop()
    async with world.agent():
        await world.operator.configure()
        instruction = world.hub.give_training()
        await world.shows(work=instruction)

        callers = {
            role: Caller(
                open_channel(
                    world.settings.listen,
                    TLSFiles.from_folder(world.folder / role.value),
                    server_name="agent",
                )
            )
            for role in (Role.TRAINER, Role.OPERATOR)
        }

        def now(call: Any) -> str:
            found: str = asyncio.run_coroutine_threadsafe(outcome(call), loop).result(30)
            return found

        def attack_all() -> None:
            for role in (Role.TRAINER, Role.OPERATOR):
                service = "Federation" if role is Role.TRAINER else "Admin"
                caller = callers[role]
                for method in pb.DESCRIPTOR.services_by_name[service].methods:
                    if method.name not in ("Enroll", "Follow", "Watch"):
                        attack(caller, method)

        def attack(caller: Caller, method: Any) -> None:
            path = f"/fedstudy.v1.{method.containing_service.name}/{method.name}"

            @TIER
            @given(st.lists(raw(method.input_type), min_size=1, max_size=4))
            def once(sent: list[bytes]) -> None:
                if method.client_streaming:
                    now(caller.upload(path, sent))
                elif method.server_streaming:
                    now(caller.serve(path, sent[0]))
                else:
                    now(caller.unary(path, sent[0]))

            once()

        await asyncio.to_thread(attack_all)
        long = pb.Failure(instruction_id=instruction, code="x" * 10**6, message="y" * (3 * 10**6))
        for _ in range(3):
            await world.trainer.stub.Report(pb.ReportRequest(failure=long), timeout=10)
        await world.until(lambda: "yyy" in world.state.failure, "the operator sees it, shortened")
        assert len(world.state.failure) < 10_000
        async with world.trainer.following(world.hub.plan) as got:
            await world.trainer.answer(await got.get(), AGENT.UPDATE, samples=3)
            await world.until(lambda: instruction in world.hub.answers, "the answer reaches the hub")


@TIER
@given(st.data())
def test_any_word_of_the_hub(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Offers and instructions with anything in them are taken or refused, and the agent starts again after them."""
    folder = tmp_path_factory.mktemp("agent")

    def made() -> Relay:
        store = Store(folder / "agent.db")
        ledger = Ledger(folder / "ledger.jsonl")
        return Relay(
            store=store,
            blobs=BlobStore(folder / "blobs"),
            ledger=ledger,
            consent=Consent(store),
            board=Board(),
        )

    relay = made()
    plan = AGENT.plan_of()
    relay.offer(plan.canonical(), plan.digest())
    for _ in range(3):
        try:
            if data.draw(st.booleans()):
                relay.receive(data.draw(messages(pb.Instruction.DESCRIPTOR)))
            else:
                offer = data.draw(messages(pb.OfferReply.DESCRIPTOR))
                relay.offer(offer.plan, offer.digest)
        except FedstudyError as error:
            assert error.message
    stream = relay.open_stream()
    relay.next_for(stream)
    relay.close_stream(stream)
    assert relay.board.state.model_dump_json()
    relay._store.close()
    made()._store.close()
