"""The Admin service as the hub's operator sees it: the whole state after every change, and decisions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from pydantic import ValidationError

from fedstudy.aggregator import exports
from fedstudy.aggregator.engine import Engine
from fedstudy.aggregator.enrolment import Enrolments
from fedstudy.aggregator.state import SitesSet, Suspended
from fedstudy.aggregator.view import aggregator_state
from fedstudy.errors import ManifestError
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.admin import DECISION, AcceptEnrolment, RefuseEnrolment, SetSites, Suspend
from fedstudy.wire.federation_pb2_grpc import AdminServicer

INTERVAL = 0.2
"""Least seconds between two states on a Watch stream."""


class AdminService(AdminServicer):
    """Watch, Decide and Export."""

    def __init__(self, engine: Engine, enrolments: Enrolments) -> None:
        self._engine, self._enrolments = engine, enrolments

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.State]:
        """The state at once, then after changes, at most five times a second."""
        while True:
            ring = self._engine.bell.next()
            self._engine.require_running()
            state = aggregator_state(self._engine, self._enrolments)
            yield pb.State(document=state.model_dump_json(by_alias=True).encode())
            await asyncio.sleep(INTERVAL)
            await ring.wait()

    async def Export(self, request: pb.ExportRequest, context: Any) -> AsyncIterator[Any]:
        """A file of the results: as they are now, also while the study runs."""
        async for chunk in exports.serve(self._engine, request, context):
            yield chunk

    async def Decide(self, request: pb.DecideRequest, context: Any) -> pb.DecideReply:
        """Carry a decision out; durable when this returns."""
        try:
            decision = DECISION.validate_json(request.document)
        except ValidationError as error:
            first = error.errors()[0]
            raise ManifestError(f"The decision is malformed: {first['loc']}: {first['msg']}.") from None
        engine = self._engine
        match decision:
            case AcceptEnrolment() | RefuseEnrolment():
                self._enrolments.decide(decision)
            case SetSites():
                sites, required = tuple(decision.sites), tuple(decision.required)
                event = SitesSet(engine.clock(), sites, required)
                changed = (set(sites), set(required)) != (set(engine.state.sites), set(engine.state.required))
                notes = [("SitesSet", {"sites": list(sites), "required": list(required)})] if changed else []
                engine.apply(event, notes=notes)
            case Suspend():
                changed = decision.suspend != engine.state.suspended
                notes = [("Suspend" if decision.suspend else "Resume", {})] if changed else []
                engine.apply(Suspended(engine.clock(), decision.suspend), notes=notes)
            case _:
                raise ManifestError(
                    f"The decision {decision.decision} is not for an aggregator.", "Send it to an agent."
                )
        return pb.DecideReply()
