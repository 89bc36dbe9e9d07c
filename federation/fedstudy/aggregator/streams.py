"""The sites' open streams: presence, and instructions as they come. A site has one stream; a new one ends the older."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace

from fedstudy.aggregator.engine import Engine
from fedstudy.aggregator.instructions import cancellation, instruction
from fedstudy.aggregator.rounds import open_stage
from fedstudy.aggregator.state import Connected, Disconnected
from fedstudy.errors import FedstudyError, RefusedError
from fedstudy.logs import log
from fedstudy.wire import federation_pb2 as pb

_logger = logging.getLogger(__name__)


class Stream:
    """One open stream of a site."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.ended = False
        self.given: dict[str, None] = {}
        """Instructions sent on this stream and not yet taken back, in order."""


class Streams:
    """All open streams."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open: dict[str, Stream] = {}

    def begin(self, site: str) -> Stream:
        """A site has opened a stream; an older one of it ends.

        Raises:
            NoSpaceError: the disk is full.
        """
        engine = self._engine
        if site in self._open:
            self._open[site].ended = True
        stream = Stream(site)
        engine.store.seen(site)
        engine.apply(Connected(engine.clock(), site), notes=[("SiteConnected", {"site": site})])
        self._open[site] = stream
        engine.calls.ring()
        return stream

    def end(self, stream: Stream) -> None:
        """A stream is gone. May be called twice, and after a newer stream has taken over."""
        engine = self._engine
        stream.ended = True
        if self._open.get(stream.site) is not stream or engine.store.closed:
            return
        del self._open[stream.site]
        engine.progress.pop(stream.site, None)
        try:
            engine.store.seen(stream.site)
            notes = [("SiteDisconnected", {"site": stream.site})]
            engine.apply(Disconnected(engine.clock(), stream.site), notes=notes)
        except FedstudyError as error:  # a full disk must not keep the site connected for ever
            log(_logger, logging.WARNING, "DisconnectNotWritten", site=stream.site, message=str(error))
            engine.state = replace(engine.state, connected=engine.state.connected - {stream.site})
            engine.bell.ring()

    async def follow(self, stream: Stream) -> AsyncIterator[pb.Instruction]:
        """A stream's instructions until it ends; what was closed without the site's answer is taken back.

        Raises:
            ConnectionLostError: the process is stopping.
            RefusedError: the site is no longer invited, or has opened another stream.
        """
        engine, site = self._engine, stream.site
        for owed in [engine.state.owed[site]] if site in engine.state.owed else []:
            yield cancellation(owed)
        while True:
            ring = engine.calls.next()
            engine.require_running()
            require_invited(engine, site)
            if stream.ended:
                raise RefusedError(f"Another stream of {site} took over.", "Run one agent for each site.")
            for message in self._news(stream):
                yield message
            await ring.wait()

    def _news(self, stream: Stream) -> list[pb.Instruction]:
        engine, site = self._engine, stream.site
        stage = open_stage(engine.state, site)
        wanted = stage.instruction(site) if stage is not None else ""
        news = []
        for given in [i for i in stream.given if i != wanted]:
            del stream.given[given]
            if engine.state.owed.get(site) == given:
                news.append(cancellation(given))
        if stage is not None and wanted not in stream.given:
            stream.given[wanted] = None
            news.append(instruction(stage, site, engine.clock()))
        return news


def require_invited(engine: Engine, site: str) -> None:
    """Pass if the site is invited now.

    Raises:
        RefusedError: it is not, or no longer.
    """
    if site not in engine.state.sites:
        raise RefusedError(
            f"The site {site} is not, or no longer, invited to the study.",
            "Ask the study's lead to list it in spec.sites.",
        )
