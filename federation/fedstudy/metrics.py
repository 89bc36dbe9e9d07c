"""/metrics, /healthz and /readyz of a process, by HTTP on the address in FEDSTUDY_METRICS; where that is unset there is nothing.

The server runs on the process's own event loop, and figures are read when they are asked for: a process whose loop is stuck does not answer its
liveness probe, and one that nobody asks spends nothing. It speaks only what Prometheus and a kubelet need: GET, one request a connection.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from fedstudy.errors import ManifestError, PortInUseError

VARIABLE = "FEDSTUDY_METRICS"
_REQUEST_SECONDS = 5.0
_LONGEST_REQUEST = 8192
_STATUS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}

Check = Callable[[], str]
"""What is wrong; empty where nothing is."""


@asynccontextmanager
async def serving(
    address: str, collector: Collector, *, ready: Check = lambda: "", alive: Check = lambda: ""
) -> AsyncIterator[int]:
    """Serve for the length of the block; gives the port, 0 where nothing is served.

    Args:
        address: the value of FEDSTUDY_METRICS; empty: nothing is served.
        ready: fails while the process cannot be relied on.
        alive: fails when it has to be started again.

    Raises:
        ManifestError: the variable is no HOST:PORT.
        PortInUseError: the port is taken.
    """
    if not address:
        yield 0
        return
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    pages = {"/metrics": lambda: (200, generate_latest(registry), CONTENT_TYPE_LATEST)}
    pages |= {"/healthz": _page(alive), "/readyz": _page(ready)}
    server = await _listen(address, pages)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


Page = Callable[[], tuple[int, bytes, str]]


def _page(check: Check) -> Page:
    def show() -> tuple[int, bytes, str]:
        wrong = check()
        return (503 if wrong else 200), (wrong or "ok").encode() + b"\n", "text/plain; charset=utf-8"

    return show


async def _listen(address: str, pages: Mapping[str, Page]) -> asyncio.Server:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ManifestError(f"{VARIABLE}={address!r} is not HOST:PORT.", "Write it as 0.0.0.0:9090.")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(head, pages))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asks so gets nothing
        finally:
            writer.close()

    try:
        return await asyncio.start_server(answer, host.strip("[]"), int(port), limit=_LONGEST_REQUEST)
    except OSError as error:
        raise PortInUseError(
            f"Metrics cannot be served on {address}: {error.strerror}.", f"Set {VARIABLE} to another address."
        ) from error


def _response(head: bytes, pages: Mapping[str, Page]) -> bytes:
    words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    method, target = (words[0], words[1]) if len(words) == 3 else ("", "")
    page = pages.get(target.partition("?")[0])
    if method not in ("GET", "HEAD"):
        status, body, kind = 405, b"only GET\n", "text/plain"
    elif page is None:
        status, body, kind = 404, b"there are /metrics, /healthz and /readyz\n", "text/plain"
    else:
        status, body, kind = page()
    lines = [
        f"HTTP/1.1 {status} {_STATUS[status]}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + (b"" if method == "HEAD" else body)


# What collectors are made of


def gauge(name: str, help_text: str, value: float) -> Metric:
    """One figure."""
    return GaugeMetricFamily(name, help_text, value=value)


def by_label(family: Any, values: Mapping[str, float]) -> Metric:
    """One figure for each value of a family's label."""
    for label, value in values.items():
        family.add_metric([label], value)
    metric: Metric = family
    return metric


def histogram(
    name: str, help_text: str, label: str, values: Mapping[str, Iterable[float]], bounds: tuple[float, ...]
) -> Metric:
    """A histogram made of all values that there were; it survives restarts because they do.

    Args:
        label: its label; empty: none, and `values` has one entry.
    """
    family = HistogramMetricFamily(name, help_text, labels=[label] if label else [])
    for key, several in values.items():
        numbers = list(several)
        buckets = [(str(float(b)), sum(1 for n in numbers if n <= b)) for b in bounds]
        family.add_metric([key] if label else [], [*buckets, ("+Inf", len(numbers))], sum(numbers))
    return family


def not_after_seconds(path: Path) -> float | None:
    """When a certificate file ends, as Unix time; None where there is none to read."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return None


def unix_time(text: str) -> float | None:
    """RFC 3339 as Unix time; None where it is none."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under a folder."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(root, name).lstat().st_size
            except OSError:  # gone meanwhile
                continue
    return total
