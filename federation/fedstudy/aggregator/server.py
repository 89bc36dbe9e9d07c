"""The aggregator as one thing to start and stop: engine, services, listener."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from fedstudy.aggregator.admin_service import AdminService
from fedstudy.aggregator.config import Settings
from fedstudy.aggregator.engine import Engine
from fedstudy.aggregator.enrolment import Enrolments
from fedstudy.aggregator.figures import AggregatorFigures
from fedstudy.aggregator.refused import WRITE_SECONDS
from fedstudy.aggregator.service import FederationService
from fedstudy.aggregator.streams import Streams
from fedstudy.errors import FedstudyError, NoSpaceError
from fedstudy.identity import Role
from fedstudy.logs import log
from fedstudy.metrics import serving
from fedstudy.wire.auth import Refusal, Rules
from fedstudy.wire.channel import listen
from fedstudy.wire.federation_pb2_grpc import add_AdminServicer_to_server, add_FederationServicer_to_server

_logger = logging.getLogger(__name__)

_SITE, _OPERATOR = frozenset({Role.SITE}), frozenset({Role.OPERATOR})
RULES: Rules = {
    "/fedstudy.v1.Federation/Enroll": frozenset({Role.INVITATION}),
    **{
        f"/fedstudy.v1.Federation/{method}": _SITE
        for method in ("Renew", "Offer", "Follow", "Fetch", "Inquire", "Submit", "Report")
    },
    **{f"/fedstudy.v1.Admin/{method}": _OPERATOR for method in ("Watch", "Decide", "Export")},
}

GRACE = 2.0
"""Seconds that open calls get when the process stops."""


async def serve(
    settings: Settings, stop: asyncio.Event, started: Callable[[int], None] | None = None
) -> Engine:
    """Run the study until told to stop; returns the engine, closed.

    Args:
        stop: set it to stop in order.
        started: told the port once the listener is open.

    Raises:
        PlanError: the plan cannot be run, or the state folder holds another study.
        PortInUseError: the port is taken.
        NoSpaceError: the disk was full at the start.
    """
    engine = Engine(
        settings.plan, settings.state, sites=settings.study.sites, required=settings.study.required
    )
    try:
        await _serve(engine, settings, stop, started)
    finally:
        engine.close()
    return engine


async def _serve(
    engine: Engine, settings: Settings, stop: asyncio.Event, started: Callable[[int], None] | None
) -> None:
    enrolments = Enrolments(engine)
    federation = FederationService(engine, enrolments, Streams(engine))
    admin = AdminService(engine, enrolments)

    def refused(refusal: Refusal) -> None:
        try:
            engine.record_refusal(refusal.peer, refusal.method, refusal.reason)
        except FedstudyError as error:  # a full disk: the refusal stands, only its record is lost
            log(_logger, logging.ERROR, "RefusalNotRecorded", message=str(error))

    def add(server: object) -> None:
        add_FederationServicer_to_server(federation, server)  # type: ignore[no-untyped-call]  # generated
        add_AdminServicer_to_server(admin, server)  # type: ignore[no-untyped-call]  # generated

    listener = await listen(
        settings.listen,
        settings.tls,
        add,
        rules=RULES,
        on_refusal=refused,
        expect_uid=settings.study.uid,
        expect_trust_domain=settings.study.trust_domain,
    )
    log(
        _logger,
        logging.INFO,
        "Listening",
        address=settings.listen,
        port=listener.port,
        plan=engine.plan_digest,
    )
    figures = AggregatorFigures(engine, enrolments, settings.tls.certificate)
    if started is not None:
        started(listener.port)
    try:
        async with (
            serving(settings.metrics, figures, ready=lambda: "stopping" if stop.is_set() else ""),
            asyncio.TaskGroup() as group,
        ):
            tasks = [group.create_task(work) for work in (engine.run(), _write_refusals(engine))]
            await stop.wait()
            for task in tasks:
                task.cancel()
    except* FedstudyError as errors:
        raise first_error(errors) from None
    finally:
        engine.stop()
        await listener.stop(GRACE)
        log(_logger, logging.INFO, "Stopped", phase=engine.state.phase.value)


async def _write_refusals(engine: Engine) -> None:
    """The last refusals of a flood are on disk soon after it, too."""
    while True:
        await asyncio.sleep(WRITE_SECONDS)
        try:
            engine.store.write_refusals()
        except NoSpaceError as error:  # they wait in memory, in bounded room
            log(_logger, logging.ERROR, "RefusalNotRecorded", message=str(error))


def first_error(group: BaseExceptionGroup[FedstudyError]) -> FedstudyError:
    """The first of the errors that ended a task group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, FedstudyError)
    return error
