"""The command itself: exit codes, one clear line for each fault, and SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedstudy.identity import Identity, Role
from fedstudy_operator.pki import issue, make_authority


@pytest.fixture
def environment(tmp_path: Path, fedstudy_fakes: Any) -> dict[str, str]:
    authority = make_authority("study", 1)
    identity = Identity("hub.example", "study", "study-1", Role.AGGREGATOR)
    pair = issue(authority, identity=identity, dns_names=("aggregator",), days=1, server=True, client=False)
    for name in ("tls", "config"):
        (tmp_path / name).mkdir()
    (tmp_path / "tls" / "tls.crt").write_text(pair.certificate_pem)
    (tmp_path / "tls" / "tls.key").write_text(pair.key_pem)
    (tmp_path / "tls" / "ca.crt").write_text(authority.certificate_pem)
    (tmp_path / "config" / "plan.json").write_bytes(fedstudy_fakes.plan_of().canonical())
    study = {"uid": "study-1", "trustDomain": "hub.example", "sites": ["hospital-a"], "required": []}
    (tmp_path / "config" / "study.json").write_text(json.dumps(study))
    return {
        **os.environ,
        "FEDSTUDY_LISTEN": "127.0.0.1:0",
        "FEDSTUDY_TLS": str(tmp_path / "tls"),
        "FEDSTUDY_CONFIG": str(tmp_path / "config"),
        "FEDSTUDY_STATE": str(tmp_path / "state"),
    }


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def start(environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fedstudy.aggregator"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def lines_until(process: subprocess.Popen[str], event: str) -> list[dict[str, Any]]:
    assert process.stderr is not None
    lines = []
    for text in process.stderr:
        lines.append(json.loads(text))
        if lines[-1]["event"] == event:
            return lines
    raise AssertionError(f"no {event} in {lines}")


def test_it_stops_in_order_on_sigterm_and_goes_on_from_its_folder(environment: dict[str, str]) -> None:
    for expected in ("Phase", "Listening"):
        with start(environment) as process:
            assert lines_until(process, "Listening")[0]["event"] == expected
            process.send_signal(signal.SIGTERM)
            assert lines_until(process, "Stopped")
            assert process.wait(20) == 130


@pytest.mark.slow
def test_each_fault_at_the_start_is_one_line_and_an_exit_code(
    environment: dict[str, str], tmp_path: Path, taken: int
) -> None:
    config = tmp_path / "config"

    def outcome(**changes: str) -> tuple[int, dict[str, Any]]:
        with start({**environment, **changes}) as process:
            _, text = process.communicate(timeout=30)
        assert "Traceback" not in text
        return process.returncode, json.loads(text.splitlines()[-1])

    code, line = outcome(FEDSTUDY_TLS="")
    assert (code, line["event"]) == (3, "ManifestError") and "FEDSTUDY_TLS" in line["message"]
    code, line = outcome(FEDSTUDY_LISTEN=f"127.0.0.1:{taken}")
    assert (code, line["event"]) == (10, "PortInUseError") and line["remedy"]
    plan = json.loads((config / "plan.json").read_text())
    plan["federation"]["algorithm"] = {"name": "FedSomething"}
    (config / "plan.json").write_text(json.dumps(plan))
    code, line = outcome()
    assert (code, line["event"]) == (5, "PlanError") and "FedSomething" in line["message"]
    (config / "plan.json").write_text("{}")
    code, line = outcome()
    assert (code, line["event"]) == (5, "PlanError") and "plan.json" in line["message"]
    (config / "study.json").write_text("{")
    (config / "plan.json").unlink()
    code, line = outcome()
    assert code == 3
