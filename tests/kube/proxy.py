"""An HTTP proxy before the API server that refuses what a test names: too busy, ask again later."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web
from tests.cluster.control_plane import ControlPlane

_HOP = ("host", "content-length", "transfer-encoding", "connection", "content-encoding")


class Proxy:
    """Passes requests on, streams too, with the API server's own certificate.

    Args:
        plane: the API server behind it.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._refuse: tuple[str, str] = ("", "")
        self._times = 0
        self._after = 0
        self.refused: list[float] = []
        """When a request was refused, by the loop's clock."""
        self.url = ""

    def refuse(self, what: tuple[str, str], *, times: int, retry_after: int) -> None:
        """Answer 429 to so many requests of a method whose path has a word in it."""
        self._refuse, self._times, self._after = what, times, retry_after

    async def __aenter__(self) -> Self:
        pki = self._plane.folder / "pki"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki / "apiserver.crt", pki / "apiserver.key")
        trust = ssl.create_default_context(cafile=str(Path(pki / "ca.crt")))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trust), timeout=aiohttp.ClientTimeout(total=None)
        )
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        self.url = f"https://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._runner.cleanup()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        method, word = self._refuse
        if self._times and request.method == method and word in request.path:
            self._times -= 1
            self.refused.append(asyncio.get_running_loop().time())
            headers = {"Retry-After": str(self._after)}
            return web.json_response({"kind": "Status", "message": "too busy"}, status=429, headers=headers)
        headers = {n: v for n, v in request.headers.items() if n.lower() not in _HOP}
        url: Any = self._plane.url + request.raw_path
        async with self._session.request(
            request.method, url, headers=headers, data=await request.read() or None
        ) as answer:
            passed = web.StreamResponse(
                status=answer.status,
                headers={n: v for n, v in answer.headers.items() if n.lower() not in _HOP},
            )
            await passed.prepare(request)
            async for chunk in answer.content.iter_any():
                await passed.write(chunk)
            return passed
