"""Requests to the API server: JSON in and out over kubernetes.aio, each with a deadline, errors as our own classes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from fedstudy.errors import ConnectionLostError
from fedstudy_operator.cluster import ConflictError, ForbiddenError, InvalidObjectError, NotFoundError, Object
from fedstudy_operator.kube.half import ApiException, client, config

REQUEST_SECONDS = 30.0
_RETRIES = 3
_NEVER = aiohttp.ClientTimeout(total=None)
"""Of a stream: its silence is bounded, not its length."""
_LONGEST_WAIT = 30.0

_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class UnavailableError(Exception):
    """The API server cannot be reached, or has no time for us."""


async def connect(kubeconfig: str | None = None, context: str | None = None) -> client.ApiClient:
    """A client of the cluster that we run in, else of the one that a kubeconfig names.

    Raises:
        ConnectionLostError: there is neither; says where it was looked for.
    """
    settings = client.Configuration()
    if not kubeconfig and _in_pod():
        config.load_incluster_config(client_configuration=settings)
    else:
        try:
            await config.load_kube_config(
                config_file=kubeconfig, context=context, client_configuration=settings
            )
        except (config.ConfigException, OSError) as error:
            where = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
            raise ConnectionLostError(
                f"No cluster can be reached: {where} is no usable kubeconfig ({error}).",
                "Set KUBECONFIG, or name the file with --kubeconfig.",
            ) from error
    settings.retries = 0  # ours are below: they honour the deadline
    return client.ApiClient(configuration=settings)


def _in_pod() -> bool:
    return _TOKEN.exists()


class Api:
    """Requests, retried where the server asks for it."""

    def __init__(self, connection: client.ApiClient) -> None:
        self._client = connection

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        seconds: float = REQUEST_SECONDS,
    ) -> Object:
        """The answer's JSON.

        Raises:
            NotFoundError, ConflictError, InvalidObjectError, ForbiddenError: as the server says.
            UnavailableError: no answer in time, or the server is overloaded beyond our patience.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._patiently(method, path, query or {}, body, content_type)
        except TimeoutError as error:
            raise UnavailableError(f"{method} {path}: no answer within {seconds:g} s") from error

    async def stream(
        self, path: str, *, query: Mapping[str, str], silence: float
    ) -> AsyncGenerator[bytes, None]:
        """The lines of an answer that goes on, until the server ends it.

        Args:
            silence: seconds without a line after which the stream counts as broken.

        Raises:
            UnavailableError: the stream broke, or said nothing for too long.
            ForbiddenError, InvalidObjectError: as the server says.
        """
        with _as_unavailable("WATCH", path):
            async with asyncio.timeout(REQUEST_SECONDS):
                response = await self._send("GET", path, query, None, "application/json", stream=True)
            if response.status != 200:
                text = (await response.read()).decode()
                raise _error("WATCH", path, response.status, text)
            content = response.response.content
            try:
                while True:
                    async with asyncio.timeout(silence):
                        line = await content.readline()
                    if not line:
                        return
                    yield line
            finally:
                response.response.close()

    async def text(
        self, path: str, *, query: Mapping[str, str] | None = None, seconds: float = REQUEST_SECONDS
    ) -> str:
        """What GET answers where that is no JSON: a pod's log. Raises as `request` does."""
        try:
            async with asyncio.timeout(seconds):
                status, text, _ = await self._once("GET", path, query or {}, None, "application/json")
        except TimeoutError as error:
            raise UnavailableError(f"GET {path}: no answer within {seconds:g} s") from error
        if 200 <= status < 300:
            return text
        raise _error("GET", path, status, text)

    async def _patiently(
        self, method: str, path: str, query: Mapping[str, str], body: Object | None, content_type: str
    ) -> Object:
        for attempt in range(_RETRIES + 1):
            status, text, headers = await self._once(method, path, query, body, content_type)
            if status == 429 and attempt < _RETRIES:
                await asyncio.sleep(min(_LONGEST_WAIT, _seconds(headers.get("Retry-After"))))
                continue
            break
        if 200 <= status < 300:
            parsed: Object = json.loads(text)
            return parsed
        raise _error(method, path, status, text)

    async def _once(
        self, method: str, path: str, query: Mapping[str, str], body: Object | None, content_type: str
    ) -> tuple[int, str, Mapping[str, str]]:
        with _as_unavailable(method, path):
            try:
                response = await self._send(method, path, query, body, content_type)
                data = await response.read()
            except ApiException as error:
                return int(error.status or 0), str(error.body or error.reason), dict(error.headers or {})
        return response.status, data.decode(), response.headers

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | None,
        content_type: str,
        *,
        stream: bool = False,
    ) -> Any:
        request = await self._client.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        return await self._client.call_api(*request, _request_timeout=_NEVER if stream else None)


@contextmanager
def _as_unavailable(method: str, path: str) -> Iterator[None]:
    """What goes wrong on the way is one error."""
    try:
        yield
    except (OSError, TimeoutError, ValueError, aiohttp.ClientError) as error:
        raise UnavailableError(f"{method} {path}: {error!r}") from error


def _seconds(text: str | None) -> float:
    try:
        return max(0.1, float(text or 1))
    except ValueError:
        return 1.0


def _error(method: str, path: str, status: int, text: str) -> Exception:
    try:
        message = str(json.loads(text).get("message") or text)
    except (ValueError, AttributeError):
        message = text
    message = f"{method} {path}: {message[:2000]}"
    if status == 404:
        return NotFoundError(message)
    if status == 409:
        return ConflictError(message)
    if status in (400, 422):
        return InvalidObjectError(message)
    if status in (401, 403):
        return ForbiddenError(message)
    return UnavailableError(f"{message} (HTTP {status})")


__all__ = ["Api", "ForbiddenError", "UnavailableError", "connect", "status_of"]


def status_of(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    """An object's status; empty where it has none."""
    status: Mapping[str, Any] = obj.get("status") or {}
    return status
