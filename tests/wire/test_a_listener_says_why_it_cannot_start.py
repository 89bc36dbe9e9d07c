"""Listening: a free port is found, a taken one and missing files are typed errors."""

from __future__ import annotations

from typing import Any

import pytest

from fedstudy.errors import ConnectionLostError, PortInUseError, RefusedError
from fedstudy.wire.auth import Refusal
from fedstudy.wire.channel import TLSFiles, listen, open_channel


async def _listen(address: str, tls: TLSFiles) -> None:
    def ignore(refusal: Refusal) -> None: ...

    listener = await listen(address, tls, lambda server: None, rules={}, on_refusal=ignore)
    await listener.stop(0)


async def test_a_taken_port_is_said_to_be_in_use(study: Any) -> None:
    async with study.aggregator() as first:
        with pytest.raises(PortInUseError, match=f"{first.target}.*in use"):
            await _listen(first.target, first.tls)


async def test_a_port_is_free_again_after_the_listener_stopped(study: Any) -> None:
    async with study.aggregator() as first:
        pass
    await _listen(first.target, first.tls)


async def test_an_address_that_makes_no_sense_is_refused(study: Any) -> None:
    tls = study.files(study.server_pair())
    with pytest.raises(PortInUseError, match="Cannot listen on 127"):
        await _listen("127.0.0.1:http-or-so", tls)


async def test_missing_tls_files_are_named(study: Any) -> None:
    tls = study.files(study.server_pair())
    tls.key.unlink()
    with pytest.raises(ConnectionLostError, match=r"tls\.key cannot be read"):
        await _listen("127.0.0.1:0", tls)
    with pytest.raises(ConnectionLostError, match=r"tls\.key cannot be read"):
        open_channel("127.0.0.1:1", tls, server_name="aggregator")


async def test_a_certificate_without_identity_is_refused(study: Any) -> None:
    tls = study.files(study.server_pair())
    tls.certificate.write_text(tls.authority.read_text())
    with pytest.raises(RefusedError, match="no identity"):
        await _listen("127.0.0.1:0", tls)
