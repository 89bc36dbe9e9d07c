"""Approval and policy over the wire: no presence and no instruction without them, and none after they lapse."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from fedstudy.errors import PlanError, RefusedError
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.admin import DECISION, Approval, DatasetPolicy, DatasetProfile, SetSites
from fedstudy.wire.status import from_rpc_error

World = Any  # tests/agent/conftest.py


def exactly(digest: str, **more: Any) -> Approval:
    return Approval(mode="Digest", plan_digest=digest, **more)


async def test_the_trainer_sees_the_plan_but_no_work_until_its_digest_is_approved(world: World) -> None:
    async with world.agent(), world.trainer.following(world.hub.plan) as work:
        offer = await world.trainer.stub.Offer(pb.OfferRequest(), wait_for_ready=True)
        assert offer.plan == world.hub.plan.canonical()
        assert offer.digest == world.hub.plan.digest()
        named = world.hub.give_training()
        await world.shows(approved=False, approval_reason="WaitingForApproval", connected=False)
        await world.operator.configure(exactly("sha256:" + "0" * 64))
        await world.shows(approved=False, approval_reason="DigestMismatch", work="")
        assert world.hub.follows == []
        assert work.empty()
        await world.operator.configure(exactly(world.hub.plan.digest()))
        assert (await asyncio.wait_for(work.get(), 20)).id == named
        await world.shows(approved=True, approval_reason="Approved", connected=True)


async def test_a_plan_that_changes_after_approval_is_not_run(world: World) -> None:
    async with world.agent():
        await world.operator.configure(exactly(world.hub.plan.digest()))
        await world.shows(connected=True)
        before = world.hub.plan
        stream = world.trainer.stub.Follow(pb.FollowRequest(plan_digest=before.digest()))
        await stream.wait_for_connection()
        await world.hub.stop()
        world.hub.plan = world.plan_of(rounds=99)
        world.hub.give_training()
        await world.hub.start()
        await world.shows(
            approved=False, approval_reason="DigestMismatch", plan_digest=world.hub.plan.digest(), work=""
        )
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await asyncio.wait_for(stream.read(), 20)
        assert isinstance(from_rpc_error(ended.value), PlanError)
        assert world.hub.follows == [before.digest()]
        await world.operator.configure(exactly(world.hub.plan.digest()))
        await world.shows(connected=True)
        assert world.hub.follows == [before.digest(), world.hub.plan.digest()]


async def test_the_policy_wins_over_an_automatic_approval(world: World) -> None:
    async with world.agent():
        await world.operator.configure(policy=DatasetPolicy())
        await world.shows(approved=False, approval_reason="PolicyRefused")
        assert any("purpose" in violation for violation in world.state.violations)
        assert world.hub.follows == []


async def test_work_is_taken_from_the_trainer_while_the_hospital_suspends(world: World) -> None:
    async with world.agent(), world.trainer.following(world.hub.plan) as work:
        await world.operator.configure()
        named = world.hub.give_training()
        assert (await asyncio.wait_for(work.get(), 20)).id == named
        await world.operator.configure(suspend=True)
        assert (await asyncio.wait_for(work.get(), 20)).kind == pb.CANCEL
        await world.shows(connected=False, reason="Suspended", work="", approved=True)
        await world.until(lambda: world.hub.followers == 0)
        await world.operator.configure()
        assert (await asyncio.wait_for(work.get(), 20)).id == named


async def test_an_approval_ends_at_its_time(world: World) -> None:
    async with world.agent():
        end = datetime.now(UTC) + timedelta(seconds=1.5)
        await world.operator.configure(exactly(world.hub.plan.digest(), not_after=end.isoformat()))
        await world.shows(approved=False, approval_reason="ApprovalExpired", connected=False)
        await world.until(lambda: world.hub.followers == 0)


async def test_an_answer_made_before_the_consent_ended_does_not_leave(world: World) -> None:
    async with world.agent(), world.trainer.following(world.hub.plan) as work:
        await world.operator.configure()
        named = world.hub.give_training()
        instruction = await asyncio.wait_for(work.get(), 20)
        await world.operator.configure(Approval())
        await world.shows(connected=False, reason="WaitingForApproval")
        await world.trainer.answer(named, world.update)
        assert instruction.id == named
        assert world.hub.submissions == []
        await world.operator.configure()
        await world.until(lambda: named in world.hub.answers, "it leaves once approved again")


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        (lambda plan: plan.canonical() + b" ", "canonical"),
        (lambda plan: plan.canonical().replace(b'"rounds":2', b'"rounds":3'), "digest"),
        (lambda plan: plan.canonical().replace(b'"rounds":2', b'"rounds":2,"shell":"rm"'), "malformed"),
        (lambda plan: b"\xff", "malformed"),
    ],
)
async def test_a_plan_that_is_not_what_its_digest_says_is_refused(
    world: World, document: Any, fault: str
) -> None:
    world.hub.document = document(world.hub.plan)
    async with world.agent():
        await world.operator.configure()
        await world.shows(reason="PlanRefused", plan_digest="")
        assert fault in world.state.message
        assert world.hub.follows == []


async def test_the_hospitals_wishes_and_the_plan_survive_a_restart_without_the_hub(world: World) -> None:
    async with world.agent():
        await world.operator.configure()
        await world.shows(approved=True)
    await world.hub.stop()
    async with world.agent():
        await world.shows(approved=True, plan_digest=world.hub.plan.digest(), enrolled=True)


async def test_the_agent_takes_no_other_decision(world: World) -> None:
    async with world.agent():
        for document in (DECISION.dump_json(SetSites(sites=["b"])), b'{"decision": "Open"}', b"\xff"):
            with pytest.raises(grpc.aio.AioRpcError):
                await world.operator.stub.Decide(
                    pb.DecideRequest(document=document), wait_for_ready=True, timeout=10
                )
        await world.shows(approval_reason="WaitingForApproval")


async def test_a_trainer_may_not_decide_and_an_operator_may_not_submit(world: World) -> None:
    async with world.agent():
        await world.until(lambda: world.operator.seen)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await type(world.trainer.stub)(world.operator.channel).Offer(pb.OfferRequest())
        assert isinstance(from_rpc_error(refused.value), RefusedError)


async def test_a_preflights_profile_stays_in_the_hospital(world: World) -> None:
    profile = DatasetProfile(plan_digest=world.hub.plan.digest(), fits=False, faults=["Row 3: age is 'x'."])
    report = pb.ReportRequest(preflight=pb.Preflight(profile=profile.model_dump_json(by_alias=True).encode()))
    async with world.agent():
        await world.operator.configure()
        await world.shows(connected=True)
        await world.trainer.stub.Report(report, wait_for_ready=True)
        await world.shows(profile=profile)
    async with world.agent():
        await world.shows(profile=profile, connected=True)
    assert world.hub.reports == []
