"""`kubectl fedstudy results`: what a study has come to, fetched from its aggregator through a port-forward.

Nothing new may reach the aggregator: the way in is the one that the API server has, and the word that opens it is the hub operator's own client
certificate, read from its Secret. Who may read that Secret and forward ports to the aggregator's pod may have the results; both are RBAC.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import grpc

from fedstudy.aggregator.exports import HISTORY, MODEL, RESULTS
from fedstudy.errors import ConnectionLostError, NoSpaceError, UpdateError
from fedstudy.results import Results
from fedstudy.tensors import digest_file
from fedstudy.wire.channel import TLSFiles, open_channel
from fedstudy.wire.federation_pb2 import ExportRequest
from fedstudy.wire.federation_pb2_grpc import AdminStub
from fedstudy.wire.status import from_rpc_error
from fedstudy_operator.api import FederatedStudy
from fedstudy_operator.children import pod
from fedstudy_operator.children.common import decode
from fedstudy_operator.children.study import AGGREGATOR, owner_of
from fedstudy_operator.commands.access import Access
from fedstudy_operator.commands.where import Where
from fedstudy_operator.report.write import write_results

FORWARD_SECONDS = 20.0
ATTEMPTS = 8
Dial = Callable[[], AbstractAsyncContextManager[str]]
"""Gives `host:port` of the aggregator, for as long as its block."""
_FORWARDED = re.compile(rb"Forwarding from 127\.0\.0\.1:(\d+) ->")


async def fetch_results(access: Access, name: str, out: Path, say: Callable[[str], None] = print) -> Results:
    """Write results.json, history.db, the model where there is one, the report and the model card into a folder.

    Raises:
        ManifestError: there is no such study.
        RefusedError: the rights do not suffice.
        ConnectionLostError: the aggregator's pod cannot be reached.
        UpdateError: what came is not what results.json names.
    """
    study = FederatedStudy.model_validate(await access.get("FederatedStudy", name))
    owner = owner_of(study)
    secret = await access.get("Secret", owner.child("operator", "tls"))
    target = f"pod/{owner.child(AGGREGATOR)}-0"
    with tempfile.TemporaryDirectory() as folder:
        tls = _written(Path(folder), decode(secret))
        where = Where(access.namespace, access.where.context, access.where.kubeconfig)

        return await download(lambda: forwarded(where, target, pod.PORT), tls, out, say)


async def download(dial: Dial, tls: TLSFiles, out: Path, say: Callable[[str], None] = print) -> Results:
    """Fetch all files of a study.

    Args:
        dial: makes an asynchronous context manager that gives `host:port` of the aggregator; made anew where a connection broke.
        tls: an operator's client certificate.
    """
    _make(out)
    await _file(dial, tls, RESULTS, out)
    results = Results.model_validate_json((out / RESULTS).read_bytes())
    await _file(dial, tls, HISTORY, out)
    if results.model_digest:
        await _file(dial, tls, MODEL, out, digest=results.model_digest)
    write_results(out, results)
    for path in _files(out):
        say(str(path))
    return results


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


async def _file(dial: Dial, tls: TLSFiles, name: str, out: Path, *, digest: str = "") -> None:
    """Fetch one file; one with a digest goes on where it broke off, the others begin again."""
    part = out / f".{name}.part"
    part.unlink(missing_ok=True)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            async with dial() as address, open_channel(address, tls, server_name=AGGREGATOR) as channel:
                await _receive(AdminStub(channel), name, part)  # type: ignore[no-untyped-call]
            break
        except grpc.aio.AioRpcError as error:
            told = from_rpc_error(error)
            if not isinstance(told, ConnectionLostError) or attempt == ATTEMPTS:
                raise told from error
        if not digest:
            part.unlink(missing_ok=True)
        await asyncio.sleep(min(3.0, 0.2 * 2**attempt))
    if digest and (found := digest_file(part).digest) != digest:
        part.unlink()
        raise UpdateError(
            f"{name} has the digest {found}, results.json names {digest}.",
            "The study went on meanwhile: fetch again.",
        )
    part.replace(out / name)


async def _receive(stub: AdminStub, name: str, part: Path) -> None:
    with part.open("ab") as file:
        async for chunk in stub.Export(ExportRequest(name=name, offset=file.tell())):
            try:
                file.write(chunk.data)
            except OSError as error:
                raise NoSpaceError(
                    f"{part} cannot be written: {error.strerror}.", "Name another folder with -o."
                ) from error


@asynccontextmanager
async def forwarded(where: Where, target: str, port: int) -> AsyncIterator[str]:
    """A loopback address that leads to a pod's port, by `kubectl port-forward`, which knows every way to sign in.

    Raises:
        ConnectionLostError: there is no kubectl, or it cannot forward; with its words.
    """
    kubectl = os.environ.get("KUBECTL") or shutil.which("kubectl")
    if kubectl is None:
        raise ConnectionLostError("kubectl is not on the PATH.", "Install it, or set KUBECTL to it.")
    process = await asyncio.create_subprocess_exec(
        *kubectl.split(),
        *where.words,
        "port-forward",
        "--address=127.0.0.1",
        target,
        f":{port}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(FORWARD_SECONDS):
                line = await process.stdout.readline() or await process.stderr.read(4096)
        found = _FORWARDED.match(line)
        if found is None:
            raise ConnectionLostError(
                f"kubectl cannot forward a port to {target}: {line.decode(errors='replace').strip() or 'no answer in time'}",
                "Is the study's pod running, and may you forward ports (create pods/portforward)?",
            )
        yield f"127.0.0.1:{int(found[1])}"
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def _written(folder: Path, files: dict[str, str]) -> TLSFiles:
    """A TLS Secret's files, readable by us alone."""
    for name in ("tls.crt", "tls.key", "ca.crt"):
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(files.get(name, ""))
    return TLSFiles.from_folder(folder)
