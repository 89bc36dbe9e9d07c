"""The way out: dial the hub, enrol, take the plan, follow its instructions while the hospital consents, forward answers.

Every fault of the hub or the way to it ends the attempt, is shown as a typed reason, and is followed by another attempt
after a wait, for ever. Nothing here ends the process.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

import grpc

from fedstudy.agent.backoff import Backoff
from fedstudy.agent.board import Board
from fedstudy.agent.courier import CALL_SECONDS, Courier, call, federation
from fedstudy.agent.enrolment import PROTOCOL, SiteCertificate, expired
from fedstudy.agent.relay import Relay
from fedstudy.agent.settings import Settings
from fedstudy.agent.waiting import until_first
from fedstudy.errors import ConnectionLostError, FedstudyError, NoSpaceError, PlanError, RefusedError
from fedstudy.logs import log
from fedstudy.tensors import Blob
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.channel import TLSFiles, open_channel
from fedstudy.wire.credentials import CertificateFacts, certificate_facts
from fedstudy.wire.federation_pb2_grpc import FederationStub
from fedstudy.wire.status import from_rpc_error

_log = logging.getLogger(__name__)

DIAL_SECONDS = 10.0
"""How long one attempt waits for a connection."""

DECISION_SECONDS = 3600.0
"""How long one Enroll waits for the hub's decision before it is sent again."""

OFFER_SECONDS = 30.0
"""While the hospital has not approved: how often the hub is asked whether its plan is still the same."""

RENEW_SPENT, RENEW_SPREAD = 0.5, 0.1
"""The part of a certificate's life after which it is renewed, and over how much more of it the sites are spread."""

RENEW_SECONDS = 600.0
"""How often the certificate's age is looked at, and so the least time between two requests for the next one."""

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
        self, settings: Settings, *, certificate: SiteCertificate, relay: Relay, board: Board
    ) -> None:
        self._settings = settings
        self._certificate = certificate
        self._relay = relay
        self._board = board
        self._backoff = Backoff()

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
            self._record_request(request)
            self._show(
                "PendingHubAcceptance", "The certificate request is at the hub, which has to accept it."
            )
            try:
                reply = await call(
                    federation(channel).Enroll(
                        pb.EnrollRequest(csr_pem=request, protocol=PROTOCOL), timeout=DECISION_SECONDS
                    )
                )
                self._certificate.keep(reply.certificate_pem, reply.authority_pem)
            except RefusedError as error:
                raise _Attempt("InvitationRefused", error) from error
        log(_log, logging.INFO, "enrolled", fingerprint=self._certificate.facts().fingerprint)
        self._backoff.reset()

    def _record_request(self, request: str) -> None:
        sent = Blob.of(request.encode())
        if not self._relay.ledger.has("enrolment", digest=sent.digest):
            self._relay.record("enrolment", digest=sent.digest, size=sent.size)

    def _refuse_expired(self, files: TLSFiles, what: str, remedy: str) -> None:
        facts = certificate_facts(files.read()[0])
        if expired(facts):
            message = f"The {what}'s certificate ended at {facts.not_after.isoformat()}."
            raise _Attempt("CertificateExpired", ConnectionLostError(message, remedy))

    def _dial(self, files: TLSFiles) -> grpc.aio.Channel:
        return open_channel(self._settings.upstream, files, server_name=self._settings.upstream_name)

    async def _connected(self, channel: grpc.aio.Channel) -> None:
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                        await _say_why(channel)
                    await channel.wait_for_state_change(state)
        except TimeoutError:
            message = f"The hub at {self._settings.upstream} does not answer."
            remedy = "Check the address and that the way out to it is open; the agent goes on trying."
            raise ConnectionLostError(message, remedy) from None

    # --- a session -----------------------------------------------------------------------------------------------------

    async def _session(self) -> None:
        """Connected with the site's certificate: until the connection ends."""
        self._show_certificate()
        remedy = "Join the study again: delete the agent's state and ask the hub for a new invitation."
        self._refuse_expired(self._certificate.files, "site", remedy)
        try:
            async with self._dial(self._certificate.files) as channel:
                await self._connected(channel)
                stub = federation(channel)
                await until_first(self._stay(stub), self._renew(stub))
        except RefusedError as error:
            raise _Attempt("Revoked", error) from error

    async def _stay(self, stub: FederationStub) -> None:
        while True:
            await self._take_offer(stub)
            if self._relay.consent.given:
                await self._participate(stub)
            else:
                await self._wait_for_consent()

    def _show_certificate(self) -> None:
        facts = self._certificate.facts()
        self._board.update(
            enrolled=True,
            certificate_not_after=facts.not_after.isoformat(),
            certificate_fingerprint=facts.fingerprint,
        )

    async def _renew(self, stub: FederationStub) -> None:
        """Have the next certificate long before this one ends. The open connection stays; the next one is made with it."""
        while True:
            if _due(self._certificate.facts()):
                try:
                    await self._ask_renewal(stub)
                except FedstudyError as error:  # this one is good for long: hub or operator may be away
                    log(_log, logging.WARNING, "certificate not renewed", reason=str(error))
            await asyncio.sleep(RENEW_SECONDS)

    async def _ask_renewal(self, stub: FederationStub) -> None:
        document = self._certificate.request()
        sent = Blob.of(document.encode())
        self._relay.record("enrolment", digest=sent.digest, size=sent.size)
        request = pb.EnrollRequest(csr_pem=document, protocol=PROTOCOL)
        reply = await call(stub.Renew(request, timeout=DECISION_SECONDS))
        self._certificate.keep(reply.certificate_pem, reply.authority_pem)
        self._show_certificate()
        log(_log, logging.INFO, "certificate renewed", until=self._board.state.certificate_not_after)

    async def _take_offer(self, stub: FederationStub) -> None:
        reply = await call(stub.Offer(pb.OfferRequest(), timeout=CALL_SECONDS))
        self._relay.offer(reply.plan, reply.digest)

    async def _wait_for_consent(self) -> None:
        suspended = self._relay.consent.suspended
        reason = "Suspended" if suspended else self._relay.consent.verdict().reason.value
        self._show(
            reason, "The hub has an invited site here; it takes part once the hospital approves the plan."
        )
        try:
            async with asyncio.timeout(OFFER_SECONDS):
                await self._relay.until(lambda: self._relay.consent.given)
        except TimeoutError:
            return  # ask for the plan again: it may be another one by now

    async def _participate(self, stub: FederationStub) -> None:
        """Follow and forward, until the consent ends or the connection does."""
        offered = self._relay.consent.offered
        if offered is None:
            raise PlanError("There is no plan to follow.")
        courier = Courier(stub, self._relay)
        await until_first(
            self._follow(stub, offered.digest),
            courier.fetch_inputs(),
            courier.forward(),
            courier.report_progress(),
            courier.report_failures(),
            self._until_consent_ends(),
        )

    async def _follow(self, stub: FederationStub, digest: str) -> None:
        if not self._relay.ledger.has("presence", digest=digest):
            self._relay.record("presence", digest=digest)
        stream = stub.Follow(pb.FollowRequest(plan_digest=digest))
        self._board.update(connected=True, reason="", message="")
        try:
            async for instruction in stream:
                log(_log, logging.INFO, "instruction", id=instruction.id, kind=pb.Kind.Name(instruction.kind))
                self._relay.receive(instruction)
                self._backoff.reset()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        finally:
            stream.cancel()
            self._board.update(connected=False)
        raise ConnectionLostError("The hub ended the connection.", "The agent goes on trying.")

    async def _until_consent_ends(self) -> None:
        """An approval can end by time as well as by a change, so look every second."""
        while self._relay.consent.given:
            changed = self._relay.changes.next()
            try:
                async with asyncio.timeout(1.0):
                    await changed.wait()
            except TimeoutError:
                continue
        self._relay.refresh()

    # --- waiting and showing -------------------------------------------------------------------------------------------

    def _show(self, reason: str, message: str) -> None:
        if self._relay.finished and reason == "DialFailed":
            reason, message = "Finished", "The study is over; the hub need not be there any more."
        if reason != self._board.state.reason:
            log(_log, logging.INFO, "not connected", reason=reason, message=message)
        self._board.update(connected=False, reason=reason, message=message)


def _due(facts: CertificateFacts) -> bool:
    """Whether a certificate is to be renewed; sites that enrolled together do not all ask at once."""
    spread = int(facts.fingerprint[:8], 16) / 2**32
    return facts.spent(datetime.now(UTC)) >= RENEW_SPENT + RENEW_SPREAD * spread


async def _say_why(channel: grpc.aio.Channel) -> None:
    """Raise what keeps a channel from connecting: only a call's status tells it."""
    try:
        await call(federation(channel).Offer(pb.OfferRequest(), timeout=DIAL_SECONDS))
    except RefusedError:
        return  # connected by now


def _reason(error: FedstudyError) -> str:
    return _REASONS.get(type(error), "HubFault")
