"""The agent's two services: Federation towards its trainer, Admin towards its operator. They only translate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from pydantic import ValidationError

from fedstudy.agent.board import Board
from fedstudy.agent.presence import Presence
from fedstudy.agent.relay import Relay
from fedstudy.errors import ConnectionLostError, FedstudyError, ManifestError, PlanError, RefusedError
from fedstudy.identity import Role
from fedstudy.tensors import Blob
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.admin import DECISION, Configure, DatasetProfile
from fedstudy.wire.federation_pb2_grpc import AdminServicer, FederationServicer
from fedstudy.wire.framing import Frame
from fedstudy.wire.status import abort
from fedstudy.wire.transfer import serve_fetch, serve_submit

Context = Any
"""A call's `grpc.aio.ServicerContext`."""

TRAINER_METHODS = ("Offer", "Follow", "Fetch", "Inquire", "Submit", "Report")

RULES = {
    **{f"/fedstudy.v1.Federation/{name}": frozenset({Role.TRAINER}) for name in TRAINER_METHODS},
    **{f"/fedstudy.v1.Admin/{name}": frozenset({Role.OPERATOR}) for name in ("Watch", "Decide")},
}
"""Who may call what; Enroll is not served."""

PLAN_SECONDS = 20.0
"""How long Offer waits for the hub's plan before it says that there is none yet."""


class TrainerService(FederationServicer):
    """What an aggregator is to an agent, this is to the trainer."""

    def __init__(self, relay: Relay, presence: Presence) -> None:
        self._relay, self._presence = relay, presence

    async def Offer(self, request: pb.OfferRequest, context: Context) -> pb.OfferReply:
        """The plan, approved or not: the preflight needs it before anybody approves."""
        self._presence.seen()
        try:
            async with asyncio.timeout(PLAN_SECONDS):
                while (offered := self._relay.consent.offered) is None:
                    await self._relay.changes.next().wait()
        except TimeoutError:
            message = "The agent has no plan from the hub yet."
            await abort(
                context, ConnectionLostError(message, "The agent's status says why; try again later.")
            )
        return pb.OfferReply(plan=offered.document, digest=offered.digest)

    async def Follow(self, request: pb.FollowRequest, context: Context) -> AsyncIterator[pb.Instruction]:
        """Instructions of the approved plan; silent until it is approved, ended when the plan becomes another one."""
        self._presence.seen()
        await context.send_initial_metadata(())
        stream = self._relay.open_stream()
        try:
            while self._follows(request.plan_digest):
                changed = self._relay.changes.next()
                instruction = self._relay.next_for(stream)
                if instruction is None:
                    await changed.wait()
                else:
                    yield instruction
                    self._relay.sent(stream, instruction)
                    self._presence.took(instruction.id)
            if self._relay.closed:
                await abort(context, ConnectionLostError("The agent stops.", "Follow again; it comes back."))
            message = f"The plan {request.plan_digest} is not the one that the study offers now."
            await abort(
                context, PlanError(message, "Start the trainer again; it takes the new plan once approved.")
            )
        finally:
            self._relay.close_stream(stream)

    async def Fetch(self, request: pb.FetchRequest, context: Context) -> AsyncIterator[Frame]:
        """An input of the instruction that the trainer has to answer."""
        if not self._relay.lent(request.digest):
            await abort(context, RefusedError(f"{request.digest} is no input of the work at hand."))
        async for chunk in self._presence.of_stream(serve_fetch(self._relay.blobs, request, context)):
            yield chunk
            del chunk

    async def Inquire(self, request: pb.InquireRequest, context: Context) -> pb.InquireReply:
        """How much of an answer is here; accepted when it is durable."""
        self._presence.seen()
        try:
            accepted = self._relay.answered(request.instruction_id)
        except FedstudyError as error:
            await abort(context, error)
        return pb.InquireReply(offset=self._relay.blobs.held(request.digest, request.size), accepted=accepted)

    async def Submit(self, requests: AsyncIterator[pb.SubmitRequest], context: Context) -> pb.SubmitReply:
        """An answer. Accepted: it is checked and durable here, and the trainer may end."""
        with self._relay.uploads() as kept:

            def expect(header: pb.SubmitHeader) -> Blob | None:
                if self._relay.answered(header.instruction_id):
                    return None
                kept.add(header.digest)
                return Blob(header.digest, header.size)

            try:
                said = self._presence.of_stream(requests)
                header = (await serve_submit(self._relay.blobs, said, context, expect=expect)).header
                with self._presence.checking():
                    await self._relay.accept(header)
            except FedstudyError as error:
                await abort(context, error)
            return pb.SubmitReply(accepted=True, offset=header.size)

    async def Report(self, request: pb.ReportRequest, context: Context) -> pb.ReportReply:
        """Progress, a failure, or a preflight's findings."""
        self._presence.seen()
        which = request.WhichOneof("report")
        if which == "progress":
            self._relay.report_progress(request.progress)
        elif which == "failure":
            self._relay.report_failure(request.failure)
        elif which == "preflight":
            try:
                self._relay.report_profile(DatasetProfile.model_validate_json(request.preflight.profile))
            except ValidationError as error:
                await abort(context, ManifestError(f"The profile is malformed: {first_fault(error)}."))
        return pb.ReportReply()

    def _follows(self, digest: str) -> bool:
        offered = self._relay.consent.offered
        return not self._relay.closed and offered is not None and offered.digest == digest


class OperatorService(AdminServicer):
    """State out, wishes in."""

    def __init__(self, relay: Relay, board: Board) -> None:
        self._relay = relay
        self._board = board

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.State]:
        """The whole state at once, then again after every change."""
        async for state in self._board.watch():
            yield pb.State(document=state.model_dump_json(by_alias=True).encode())

    async def Decide(self, request: pb.DecideRequest, context: Context) -> pb.DecideReply:
        """Take the hospital's wishes; durable when this returns."""
        try:
            decision = DECISION.validate_json(request.document)
        except ValidationError as error:
            await abort(context, ManifestError(f"The decision is malformed: {first_fault(error)}."))
        if not isinstance(decision, Configure):
            await abort(context, RefusedError(f"An agent takes Configure only, not {decision.decision}."))
        self._relay.configure(decision)
        return pb.DecideReply()


def first_fault(error: ValidationError) -> str:
    """The first thing wrong with a document: where and what."""
    fault = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'document'}: {fault['msg']}"
