"""`kubectl fedstudy results`: files over real mutual TLS from a real aggregator, resumed, checked, and for operators alone."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import stat
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from a_served_study import DOMAIN, UID, served

from fedstudy.aggregator.report import collect
from fedstudy.errors import ConnectionLostError, ManifestError, RefusedError, UpdateError
from fedstudy.identity import Identity, Role
from fedstudy.tensors import digest_file
from fedstudy.wire.blobs import path_of
from fedstudy.wire.channel import TLSFiles, open_channel
from fedstudy.wire.federation_pb2 import ExportRequest
from fedstudy.wire.federation_pb2_grpc import AdminStub
from fedstudy.wire.status import from_rpc_error
from fedstudy_operator.commands import results as command
from fedstudy_operator.commands.where import Where
from fedstudy_operator.pki import KeyPair, issue, make_authority


def written(folder: Path, pair: KeyPair, authority: KeyPair) -> TLSFiles:
    folder.mkdir()
    (folder / "tls.crt").write_text(pair.certificate_pem)
    (folder / "tls.key").write_text(pair.key_pem)
    (folder / "ca.crt").write_text(authority.certificate_pem)
    return TLSFiles.from_folder(folder)


def issued(authority: KeyPair, role: Role, *, name: str = "") -> KeyPair:
    identity = Identity(DOMAIN, "study", UID, role, name)
    server = role is Role.AGGREGATOR
    names = ("aggregator",) if server else ()
    return issue(authority, identity=identity, dns_names=names, days=1, server=server, client=not server)


Dial = Callable[[], AbstractAsyncContextManager[str]]


@asynccontextmanager
async def aggregator(
    folder: Path, plan: Any, sites: tuple[str, ...], *, metrics: str = ""
) -> AsyncIterator[tuple[Dial, KeyPair]]:
    """The aggregator on a folder in which a study has run."""
    authority = make_authority("study", 2)
    written(folder / "server", issued(authority, Role.AGGREGATOR), authority)
    async with served(folder, plan, sites, metrics=metrics) as port:

        @asynccontextmanager
        async def dial() -> AsyncIterator[str]:
            yield f"127.0.0.1:{port}"

        yield dial, authority


async def test_everything_arrives_with_report_and_card(tmp_path: Path, fedstudy_fakes: Any) -> None:
    plan = fedstudy_fakes.plan_of()
    engine = await fedstudy_fakes.run_study(tmp_path / "state", plan)
    said: list[str] = []
    async with aggregator(tmp_path, plan, fedstudy_fakes.SITES) as (dial, authority):
        tls = written(tmp_path / "operator", issued(authority, Role.OPERATOR), authority)
        got = await command.download(dial, tls, tmp_path / "out", said.append)
    out = tmp_path / "out"
    names = {"history.db", "model-card.md", "model.safetensors", "report.html", "results.json"}
    assert {path.name for path in out.iterdir()} == names == {Path(line).name for line in said}
    assert got == collect(tmp_path / "state")
    assert digest_file(out / "model.safetensors").digest == engine.state.model.digest == got.model_digest
    with sqlite3.connect(out / "history.db") as db:
        assert db.execute("SELECT COUNT(*) FROM rounds").fetchone()[0] == len(got.rounds) > 0


async def test_a_model_goes_on_where_it_broke_off(tmp_path: Path, fedstudy_fakes: Any) -> None:
    plan = fedstudy_fakes.plan_of()
    engine = await fedstudy_fakes.run_study(tmp_path / "state", plan)
    whole = path_of(tmp_path / "state" / "blobs", engine.state.model.digest).read_bytes()
    async with aggregator(tmp_path, plan, fedstudy_fakes.SITES) as (dial, authority):
        tls = written(tmp_path / "operator", issued(authority, Role.OPERATOR), authority)
        async with dial() as address, open_channel(address, tls, server_name="aggregator") as channel:
            request = ExportRequest(name="model.safetensors", offset=100)
            rest = b"".join([bytes(chunk.data) async for chunk in AdminStub(channel).Export(request)])
    assert rest == whole[100:]


async def test_only_an_operator_gets_results_and_only_by_their_names(
    tmp_path: Path, fedstudy_fakes: Any
) -> None:
    plan = fedstudy_fakes.plan_of()
    await fedstudy_fakes.run_study(tmp_path / "state", plan)
    async with aggregator(tmp_path, plan, fedstudy_fakes.SITES) as (dial, authority):
        site = written(tmp_path / "site", issued(authority, Role.SITE, name="hospital-a"), authority)
        with pytest.raises(RefusedError):
            await command.download(dial, site, tmp_path / "out")
        operator = written(tmp_path / "operator", issued(authority, Role.OPERATOR), authority)
        async with dial() as address, open_channel(address, operator, server_name="aggregator") as channel:
            for name in ("", "../aggregator.db", "/etc/passwd", "agent.db"):
                with pytest.raises(ManifestError):
                    await drained(AdminStub(channel).Export(ExportRequest(name=name)))


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def lives(pid: str) -> bool:
    return Path("/proc", pid).exists()


async def drained(stream: Any) -> None:
    try:
        async for _ in stream:
            pass
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


async def test_another_model_than_the_results_name_is_refused(
    tmp_path: Path, fedstudy_fakes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = fedstudy_fakes.plan_of()
    await fedstudy_fakes.run_study(tmp_path / "state", plan)
    receive = command._receive

    async def spoilt(stub: Any, name: str, part: Path) -> None:
        await receive(stub, name, part)
        if name == "model.safetensors":
            spoil(part)

    monkeypatch.setattr(command, "_receive", spoilt)
    async with aggregator(tmp_path, plan, fedstudy_fakes.SITES) as (dial, authority):
        tls = written(tmp_path / "operator", issued(authority, Role.OPERATOR), authority)
        with pytest.raises(UpdateError, match=r"model.safetensors has the digest"):
            await command.download(dial, tls, tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()


async def test_the_process_serves_its_metrics_where_it_is_told_to(
    tmp_path: Path, fedstudy_fakes: Any
) -> None:
    plan = fedstudy_fakes.plan_of()
    engine = await fedstudy_fakes.run_study(tmp_path / "state", plan)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    async with aggregator(tmp_path, plan, fedstudy_fakes.SITES, metrics=address) as (dial, authority):
        tls = written(tmp_path / "operator", issued(authority, Role.OPERATOR), authority)
        await command.download(dial, tls, tmp_path / "out")  # by now it serves
        page = await asyncio.to_thread(fetched, f"http://{address}/metrics")
    lines = page.splitlines()
    assert 'fedstudy_phase{phase="Complete"} 1.0' in lines
    assert f"fedstudy_round_seconds_count {float(engine.rules.rounds)}" in lines
    assert any(line.startswith("fedstudy_certificate_not_after_seconds 1") for line in lines)


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return str(answer.read().decode())


def kubectl(folder: Path, script: str) -> str:
    """An executable that stands for kubectl."""
    path = folder / "kubectl"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


async def test_the_forwarded_port_is_the_one_that_kubectl_names_and_its_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f'echo "$@" > {tmp_path}/words; echo $$ > {tmp_path}/pid; echo "Forwarding from 127.0.0.1:40123 -> 8443"; exec sleep 60'
    monkeypatch.setenv("KUBECTL", kubectl(tmp_path, script))
    async with command.forwarded(Where("hub", "prod", ""), "pod/glioma-aggregator-0", 8443) as address:
        assert address == "127.0.0.1:40123"
    words = (tmp_path / "words").read_text()
    assert (
        words
        == "--namespace hub --context prod port-forward --address=127.0.0.1 pod/glioma-aggregator-0 :8443\n"
    )
    assert not lives((tmp_path / "pid").read_text().strip())


async def test_what_kubectl_says_when_it_cannot_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECTL", kubectl(tmp_path, 'echo "error: pods \\"x\\" is forbidden" >&2; exit 1'))
    with pytest.raises(ConnectionLostError, match='pods "x" is forbidden'):
        async with command.forwarded(Where(), "pod/x", 8443):
            pass
