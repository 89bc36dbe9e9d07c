"""The Federation service as agents see it: translates between the wire and the engine, and decides nothing itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fedstudy.aggregator.engine import Engine
from fedstudy.aggregator.enrolment import Enrolments
from fedstudy.aggregator.state import Alive
from fedstudy.aggregator.streams import Streams, require_invited
from fedstudy.errors import NoSpaceError, PlanError, RefusedError, UpdateError
from fedstudy.tensors import Blob
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.admin import SiteProgress
from fedstudy.wire.auth import peer
from fedstudy.wire.federation_pb2_grpc import FederationServicer
from fedstudy.wire.framing import Frame
from fedstudy.wire.transfer import Submission, serve_fetch, serve_submit


class FederationService(FederationServicer):
    """Every method but Enroll is for an invited site; which one is in its certificate."""

    def __init__(self, engine: Engine, enrolments: Enrolments, streams: Streams) -> None:
        self._engine, self._enrolments, self._streams = engine, enrolments, streams

    async def Enroll(self, request: pb.EnrollRequest, context: Any) -> pb.EnrollReply:
        """Wait for the decision on a CSR."""
        entry = await self._enrolments.enrol(peer(context).name, request.csr_pem)
        return pb.EnrollReply(certificate_pem=entry.certificate, authority_pem=entry.authority)

    async def Renew(self, request: pb.EnrollRequest, context: Any) -> pb.EnrollReply:
        """Wait for the site's next certificate."""
        entry = await self._enrolments.renew(self._site(context), request.csr_pem)
        return pb.EnrollReply(certificate_pem=entry.certificate, authority_pem=entry.authority)

    async def Offer(self, request: pb.OfferRequest, context: Any) -> pb.OfferReply:
        """The plan."""
        self._site(context)
        return pb.OfferReply(plan=self._engine.plan.canonical(), digest=self._engine.plan_digest)

    async def Follow(self, request: pb.FollowRequest, context: Any) -> AsyncIterator[pb.Instruction]:
        """The site's instructions; as long as the stream is open the site counts as connected."""
        site = self._site(context)
        if request.plan_digest != self._engine.plan_digest:
            raise PlanError(
                f"The site {site} approved the plan {request.plan_digest or '(none)'}; the study runs {self._engine.plan_digest}.",
                "Approve the offered plan.",
            )
        stream = self._streams.begin(site)
        context.add_done_callback(lambda _: self._streams.end(stream))
        try:
            async for instruction in self._streams.follow(stream):
                yield instruction
        finally:
            self._streams.end(stream)

    async def Fetch(self, request: pb.FetchRequest, context: Any) -> AsyncIterator[Frame]:
        """A blob that the site's open instruction names."""
        site = self._site(context)
        if not self._engine.may_fetch(site, request.digest):
            raise RefusedError(
                f"No open instruction of {site} names {request.digest}.", "Follow the next instruction."
            )
        async for chunk in serve_fetch(self._engine.blobs, request, context):
            self._engine.count(site, sent=len(chunk.data))
            yield chunk
            del chunk

    async def Inquire(self, request: pb.InquireRequest, context: Any) -> pb.InquireReply:
        """How much of an answer is here, or that it was accepted."""
        site = self._site(context)
        if self._accepted(site, request):
            return pb.InquireReply(offset=request.size, accepted=True)
        self._engine.require_open(site, request.instruction_id)
        blobs = self._engine.blobs
        offset = request.size if blobs.has(request.digest) else blobs.held(request.digest, request.size)
        return pb.InquireReply(offset=offset, accepted=False)

    async def Submit(self, requests: AsyncIterator[pb.SubmitRequest], context: Any) -> pb.SubmitReply:
        """An answer: spooled, verified, counted; durable when this returns. One that was accepted before is accepted again."""
        engine, site = self._engine, self._site(context)
        try:
            submission = await self._spool(site, requests, context)
            header = submission.header
            if not self._accepted(site, header):
                engine.count(site, received=submission.came)
                await engine.accept(site, header)
        except NoSpaceError as error:
            engine.hold(error)
            raise
        return pb.SubmitReply(accepted=True, offset=header.size)

    async def _spool(self, site: str, requests: AsyncIterator[pb.SubmitRequest], context: Any) -> Submission:
        """Take the bytes in; wrong ones are a refused update like any other."""
        engine, instruction = self._engine, ""

        def expect(header: pb.SubmitHeader) -> Blob | None:
            nonlocal instruction
            if self._accepted(site, header):
                return None
            engine.require_open(site, header.instruction_id)
            instruction = header.instruction_id
            return engine.expect(site, header)

        try:
            return await serve_submit(engine.blobs, requests, context, expect=expect)
        except UpdateError as error:
            if instruction:
                engine.refuse_update(site, instruction, error)
            raise

    def _accepted(self, site: str, said: pb.InquireRequest | pb.SubmitHeader) -> bool:
        """Whether just this was accepted from the site before."""
        known = self._engine.store.answer(said.instruction_id)
        return known is not None and known.site == site and known.blob == Blob(said.digest, said.size)

    async def Report(self, request: pb.ReportRequest, context: Any) -> pb.ReportReply:
        """Progress, kept in memory; failures, kept for ever. A preflight's profile stays at the agent and is ignored."""
        site = self._site(context)
        match request.WhichOneof("report"):
            case "progress":
                self._progress(site, request.progress)
            case "failure":
                self._failure(site, request.failure)
            case _:
                pass
        return pb.ReportReply()

    def _progress(self, site: str, said: pb.Progress) -> None:
        engine = self._engine
        engine.progress[site] = SiteProgress(
            instruction_id=said.instruction_id[:256],
            samples_done=said.samples_done,
            samples_total=said.samples_total,
            loss=_finite(said.loss),
            seconds_left=_finite(said.seconds_left),
            samples_per_second=_finite(said.samples_per_second),
        )
        if site in engine.state.late:
            engine.apply(Alive(engine.clock(), site))
        engine.bell.ring()

    def _failure(self, site: str, said: pb.Failure) -> None:
        engine = self._engine
        code, message = said.code[:64], said.message[:1000]
        engine.remarks[site] = f"Failed: {code} ({message})"
        if said.final:
            engine.fail(site, said.instruction_id[:256], code, message)
            return
        detail = {"site": site, "instruction": said.instruction_id[:256], "code": code, "message": message}
        engine.apply(Alive(engine.clock(), site), notes=[("SiteStumbled", detail)])

    def _site(self, context: Any) -> str:
        """The caller's name.

        Raises:
            RefusedError: it is not, or no longer, invited; the refusal is recorded.
        """
        identity = peer(context)
        try:
            require_invited(self._engine, identity.name)
        except RefusedError as error:
            self._engine.record_refusal(identity.uri(), "Federation", error.message)
            raise
        return identity.name


def _finite(value: float) -> float | None:
    return value if -1e300 < value < 1e300 else None
