"""/healthz, /readyz and /metrics: whether this replica lives, whether it can be relied on, and its figures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from fedstudy.errors import PortInUseError

Check = Callable[[], str]
"""What is wrong; empty where nothing is."""


class Probes:
    """A small HTTP server.

    Args:
        address: HOST:PORT.
        alive: fails when the process has to be restarted.
        ready: fails while it cannot be relied on.
        metrics: what /metrics shows.
    """

    def __init__(self, address: str, *, alive: Check, ready: Check, metrics: CollectorRegistry) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._metrics = metrics
        app = web.Application()
        app.router.add_get("/healthz", _answer(alive))
        app.router.add_get("/readyz", _answer(ready))
        app.router.add_get("/metrics", self._show)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self) -> int:
        """Begin to serve; returns the port.

        Raises:
            PortInUseError: the port is taken.
        """
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host.strip("[]"), self._port)
        try:
            await site.start()
        except OSError as error:
            raise PortInUseError(
                f"The operator cannot serve its probes on port {self._port}: {error.strerror}.",
                "Set FEDSTUDY_HTTP to another address.",
            ) from error
        port: int = self._runner.addresses[0][1]
        return port

    async def stop(self) -> None:
        """Stop serving."""
        await self._runner.cleanup()

    async def _show(self, request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._metrics), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


def _answer(check: Check) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        wrong = check()
        return web.Response(text=wrong or "ok", status=503 if wrong else 200)

    return answer
