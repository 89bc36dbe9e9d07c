"""The way out: dial the hub, enrol, take the plan, follow its instructions while the hospital consents, forward answers.

Every fault of the hub or the way to it ends the attempt, is shown as a typed reason, and is followed by another attempt
after a wait, for ever. Nothing here ends the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc

from fedstudy.agent.backoff import Backoff
from fedstudy.agent.board import Board
from fedstudy.agent.enrolment import PROTOCOL, SiteCertificate, expired, record_request
from fedstudy.agent.ledger import Ledger
from fedstudy.agent.relay import Relay
from fedstudy.agent.settings import Settings
from fedstudy.agent.store import Held
from fedstudy.agent.waiting import until_first
from fedstudy.errors import ConnectionLostError, FedstudyError, NoSpaceError, PlanError, RefusedError
from fedstudy.logs import log
from fedstudy.tensors import Blob
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.blobs import BlobStore
from fedstudy.wire.channel import TLSFiles, open_channel
from fedstudy.wire.credentials import certificate_facts
from fedstudy.wire.federation_pb2_grpc import FederationStub
from fedstudy.wire.status import from_rpc_error
from fedstudy.wire.transfer import fetch, submit

_log = logging.getLogger(__name__)

Reply = TypeVar("Reply")

DIAL_SECONDS = 10.0
"""How long one attempt waits for a connection."""

CALL_SECONDS = 30.0
"""How long a small call may take."""

DECISION_SECONDS = 300.0
"""How long one Enroll waits for the hub's decision before it is sent again."""

OFFER_SECONDS = 30.0
"""While the hospital has not approved: how often the hub is asked whether its plan is still the same."""

TRANSFER_SECONDS = 600.0
"""How long one try of a transfer may take; the next goes on where it ended."""

PROGRESS_SECONDS = 1.0
"""Least time between two progress reports to the hub."""

CODES = frozenset(
    {
        "ManifestError",
        "DataError",
        "PlanError",
        "RefusedError",
        "UpdateError",
        "ConnectionLostError",
        "NoSpaceError",
    }
)
"""What a failure may be called outside; any other word of a trainer becomes `Failure`."""

STEADY_SECONDS = 30.0
"""A connection that lasted so long was a good one: the waits begin again with the shortest."""

_REASONS: dict[type[FedstudyError], str] = {
    ConnectionLostError: "DialFailed",
    PlanError: "PlanRefused",
    NoSpaceError: "NoSpace",
    RefusedError: "CertificateRefused",
}


class _Attempt(Exception):
    """An attempt ended for a reason that has a name of its own."""

    def __init__(self, reason: str, error: FedstudyError) -> None:
        super().__init__(str(error))
        self.reason = reason


class Upstream:
    """The agent's side of the study's one connection."""

    def __init__(
        self, settings: Settings, *, certificate: SiteCertificate, relay: Relay, ledger: Ledger, board: Board
    ) -> None:
        self._settings = settings
        self._certificate = certificate
        self._relay = relay
        self._ledger = ledger
        self._board = board
        self._blobs: BlobStore = relay.blobs
        self._backoff = Backoff()
        self._reports: dict[str, int] = {}

    async def run(self) -> None:
        """Keep the hospital connected until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            try:
                if not self._certificate.enrolled:
                    await self._enrol()
                await self._session()
            except _Attempt as error:
                self._show(error.reason, str(error))
            except FedstudyError as error:
                self._show(_reason(error), str(error))
            if clock() - began > STEADY_SECONDS:
                self._backoff.reset()
            await asyncio.sleep(self._backoff.next())

    # --- enrolment -----------------------------------------------------------------------------------------------------

    async def _enrol(self) -> None:
        files = TLSFiles.from_folder(self._settings.invitation)
        self._refuse_expired(files, "invitation", "Ask the hub for a new invitation.")
        if not self._board.state.reason:
            self._show("Enrolling", "Asking the hub for this site's certificate.")
        request = self._certificate.request()
        async with self._dial(files) as channel:
            await self._connected(channel)
            record_request(self._ledger, request)
            self._relay.record()
            self._show(
                "PendingHubAcceptance", "The certificate request is at the hub, which has to accept it."
            )
            try:
                reply = await _call(
                    FederationStub(channel).Enroll(
                        pb.EnrollRequest(csr_pem=request, protocol=PROTOCOL), timeout=DECISION_SECONDS
                    )
                )
                self._certificate.keep(reply.certificate_pem, reply.authority_pem)
            except RefusedError as error:
                raise _Attempt("InvitationRefused", error) from error
        log(_log, logging.INFO, "enrolled", fingerprint=self._certificate.facts().fingerprint)
        self._backoff.reset()

    def _refuse_expired(self, files: TLSFiles, what: str, remedy: str) -> None:
        facts = certificate_facts(files.certificate.read_bytes())
        if expired(facts):
            message = f"The {what}'s certificate ended at {facts.not_after.isoformat()}."
            raise _Attempt("CertificateExpired", ConnectionLostError(message, remedy))

    def _dial(self, files: TLSFiles) -> grpc.aio.Channel:
        return open_channel(self._settings.upstream, files, server_name=self._settings.upstream_name)

    async def _connected(self, channel: grpc.aio.Channel) -> None:
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                await channel.channel_ready()
        except TimeoutError:
            message = f"The hub at {self._settings.upstream} does not answer."
            remedy = "Check the address and that the way out to it is open; the agent goes on trying."
            raise ConnectionLostError(message, remedy) from None

    # --- a session -----------------------------------------------------------------------------------------------------

    async def _session(self) -> None:
        """Connected with the site's certificate: until the connection ends."""
        facts = self._certificate.facts()
        self._board.update(
            enrolled=True,
            certificate_not_after=facts.not_after.isoformat(),
            certificate_fingerprint=facts.fingerprint,
        )
        remedy = "Join the study again: delete the agent's state and ask the hub for a new invitation."
        self._refuse_expired(self._certificate.files, "site", remedy)
        try:
            async with self._dial(self._certificate.files) as channel:
                await self._connected(channel)
                stub = FederationStub(channel)
                while True:
                    await self._take_offer(stub)
                    if self._relay.consent.given:
                        await self._participate(stub)
                    else:
                        await self._wait_for_consent()
        except RefusedError as error:
            raise _Attempt("Revoked", error) from error

    async def _take_offer(self, stub: FederationStub) -> None:
        reply = await _call(stub.Offer(pb.OfferRequest(), timeout=CALL_SECONDS))
        self._relay.offer(reply.plan, reply.digest)

    async def _wait_for_consent(self) -> None:
        suspended = self._relay.consent.suspended
        reason = "Suspended" if suspended else self._relay.consent.verdict().reason.value
        self._show(
            reason, "The hub has an invited site here; it takes part once the hospital approves the plan."
        )
        try:
            async with asyncio.timeout(OFFER_SECONDS):
                await self._until(lambda: self._relay.consent.given)
        except TimeoutError:
            return  # ask for the plan again: it may be another one by now

    async def _participate(self, stub: FederationStub) -> None:
        """Follow and forward, until the consent ends or the connection does."""
        offered = self._relay.consent.offered
        if offered is None:
            raise PlanError("There is no plan to follow.")
        await until_first(
            self._follow(stub, offered.digest),
            self._fetch_inputs(stub),
            self._forward(stub),
            self._report_progress(stub),
            self._report_failures(stub),
            self._until_consent_ends(),
        )

    async def _follow(self, stub: FederationStub, digest: str) -> None:
        if not self._ledger.has("presence", digest=digest):
            self._write("presence", digest=digest)
        call = stub.Follow(pb.FollowRequest(plan_digest=digest))
        self._board.update(connected=True, reason="", message="")
        try:
            async for instruction in call:
                log(_log, logging.INFO, "instruction", id=instruction.id, kind=pb.Kind.Name(instruction.kind))
                self._relay.receive(instruction)
                self._backoff.reset()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()
            self._board.update(connected=False)
        raise ConnectionLostError("The hub ended the connection.", "The agent goes on trying.")

    async def _until_consent_ends(self) -> None:
        """An approval can end by time as well as by a change, so look every few seconds."""
        while self._relay.consent.given:
            changed = self._relay.changes.next()
            try:
                async with asyncio.timeout(5.0):
                    await changed.wait()
            except TimeoutError:
                self._relay.refresh()

    # --- what goes in and out ------------------------------------------------------------------------------------------

    async def _fetch_inputs(self, stub: FederationStub) -> None:
        async def one(held: Held) -> None:
            for wanted in held.content.inputs:
                blob = Blob(wanted.digest, wanted.size)
                if not self._blobs.has(blob.digest):
                    await fetch(stub, blob, self._blobs, timeout=TRANSFER_SECONDS)
            self._relay.fetched(held.id)

        await self._each(self._relay.to_fetch, one)

    async def _forward(self, stub: FederationStub) -> None:
        async def one(held: Held) -> None:
            if held.answer is None:
                raise PlanError(f"{held.id} has no answer to forward.")
            self._record_answer(held)
            try:
                await submit(
                    stub, held.id, held.answer, self._blobs, held.contribution, timeout=TRANSFER_SECONDS
                )
            except (ConnectionLostError, NoSpaceError):
                raise
            except FedstudyError as error:
                if error.exit_code == FedstudyError.exit_code:
                    raise  # a fault inside the hub: its word on the answer is still to come
                log(_log, logging.ERROR, "answer refused by the hub", instruction=held.id, reason=str(error))
                self._relay.forwarded(held.id, refusal=error)
            else:
                self._relay.forwarded(held.id)

        await self._each(self._relay.to_forward, one)

    async def _each(
        self, listed: Callable[[], list[Held]], work: Callable[[Held], Coroutine[Any, Any, None]]
    ) -> None:
        """Work off a list for ever, oldest first; what is cancelled meanwhile is left."""
        while True:
            changed = self._relay.changes.next()
            waiting = listed()
            if not waiting:
                await changed.wait()
                continue
            await until_first(work(waiting[0]), self._until_unwanted(waiting[0].id))

    async def _until_unwanted(self, instruction_id: str) -> None:
        await self._until(lambda: not self._relay.wanted(instruction_id))

    async def _report_progress(self, stub: FederationStub) -> None:
        while True:
            changed = self._relay.changes.next()
            progress, self._relay.progress = self._relay.progress, None
            if progress is None:
                await changed.wait()
                continue
            if not self._ledger.has("progress", progress.instruction_id):
                fields = {"fields": [field.name for field in pb.Progress.DESCRIPTOR.fields]}
                self._write("progress", instruction=progress.instruction_id, fields=fields)
            self._reports[progress.instruction_id] = self._reports.get(progress.instruction_id, 0) + 1
            await self._report(stub, pb.ReportRequest(progress=progress))
            await asyncio.sleep(PROGRESS_SECONDS)

    async def _report_failures(self, stub: FederationStub) -> None:
        while True:
            changed = self._relay.changes.next()
            if not self._relay.failures:
                await changed.wait()
                continue
            told = outward(self._relay.failures[0])
            fields = {"code": told.code, "final": told.final, **self._counted(told.instruction_id)}
            self._write("failure", instruction=told.instruction_id, fields=fields)
            await self._report(stub, pb.ReportRequest(failure=told))
            self._relay.failures.pop(0)

    async def _report(self, stub: FederationStub, request: pb.ReportRequest) -> None:
        """A report that the hub does not want (its instruction is over) is no fault; a lost connection is."""
        try:
            await _call(stub.Report(request, timeout=CALL_SECONDS))
        except ConnectionLostError:
            raise
        except FedstudyError as error:
            log(_log, logging.WARNING, "report refused by the hub", reason=str(error))

    def _record_answer(self, held: Held) -> None:
        """In the ledger before it leaves, once however often it is sent."""
        answer = held.answer
        if answer is None or self._ledger.has("answer", held.id, answer.digest):
            return
        said = held.contribution
        contribution = {
            field.name: _plain(getattr(said, field.name)) for field in pb.Contribution.DESCRIPTOR.fields
        }
        self._write(
            "answer",
            instruction=held.id,
            kind=pb.Kind.Name(held.content.kind),
            digest=answer.digest,
            size=answer.size,
            fields={**contribution, **self._counted(held.id)},
        )

    def _counted(self, instruction_id: str) -> dict[str, Any]:
        return {"progress_reports": self._reports.pop(instruction_id, 0)}

    def _write(self, what: str, **entry: Any) -> None:
        self._ledger.append(what, **entry)
        self._relay.record()

    # --- waiting and showing -------------------------------------------------------------------------------------------

    async def _until(self, holds: Callable[[], bool]) -> None:
        while True:
            changed = self._relay.changes.next()
            if holds():
                return
            await changed.wait()

    def _show(self, reason: str, message: str) -> None:
        if self._relay.finished and reason == "DialFailed":
            reason, message = "Finished", "The study is over; the hub need not be there any more."
        if reason != self._board.state.reason:
            log(_log, logging.INFO, "not connected", reason=reason, message=message)
        self._board.update(connected=False, reason=reason, message=message)


def outward(failure: pb.Failure) -> pb.Failure:
    """What the hub hears of a trainer's failure: its kind. Its message may speak of rows and stays in the hospital."""
    code = failure.code if failure.code in CODES else "Failure"
    message = f"The trainer failed with {code}; what happened is shown at the hospital."
    return pb.Failure(instruction_id=failure.instruction_id, code=code, message=message, final=failure.final)


async def _call(call: Awaitable[Reply]) -> Reply:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


def _reason(error: FedstudyError) -> str:
    return _REASONS.get(type(error), "HubFault")


def _plain(value: float) -> float | str:
    """JSON has no NaN and no infinity; they are written as words."""
    return value if value == value and abs(value) != float("inf") else str(value)
