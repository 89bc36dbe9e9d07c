"""The watch on grpc's log: nothing of standard error is lost, and only failed handshakes are told."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstudy.wire.handshakes import reason_of

PREFIX = b"I1123 12:23:13.376878    7265 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"


@pytest.mark.parametrize(
    "tail, reason",
    [
        (b"PEER_DID_NOT_RETURN_A_CERTIFICATE: Invalid certificate verification context", "no client certificate"),
        (b"CERTIFICATE_VERIFY_FAILED: certificate has expired", "certificate expired"),
        (b"CERTIFICATE_VERIFY_FAILED: certificate is not yet valid", "certificate not yet valid"),
        (b"CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate", "certificate of another authority"),
        (b"CERTIFICATE_VERIFY_FAILED: self signed certificate", "certificate of another authority"),
        (b"CERTIFICATE_VERIFY_FAILED: unsupported certificate purpose", "certificate for another purpose"),
        (b"CERTIFICATE_VERIFY_FAILED: path length constraint exceeded", "certificate refused: path length constraint exceeded"),
        (b"NO_SHARED_CIPHER: Invalid certificate verification context", "TLS older than 1.3"),
        (b"SOMETHING_ELSE", "handshake failed: SOMETHING_ELSE"),
    ],
)  # fmt: skip
def test_a_line_on_a_failed_handshake_gives_its_reason(tail: bytes, reason: str) -> None:
    assert reason_of(PREFIX + tail) == reason


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_other_line_is_taken_for_one(line: bytes) -> None:
    assert reason_of(line) is None


_PROCESS = """
import os, sys, threading
from fedstudy.wire.handshakes import watch_handshakes

refusals = []
end = watch_handshakes(refusals.append)
second = watch_handshakes(refusals.append)
second()
def shout(name):
    for n in range(2000):
        os.write(2, f"{name} {n} {'x' * 90}\\n".encode())
threads = [threading.Thread(target=shout, args=(name,)) for name in "abc"]
for thread in threads: thread.start()
for thread in threads: thread.join()
line = b"ssl_transport_security.cc:1] Handshake failed: OPENSSL_internal:HTTP_REQUEST: x\\n"
os.write(2, line[:40]); os.write(2, line[40:])                        # a line may come in pieces
if sys.argv[1] == "ended":
    end(); end()
    assert [refusal.reason for refusal in refusals] == ["not TLS"], refusals
    os.write(2, line)
    assert len(refusals) == 1
    again = watch_handshakes(refusals.append)
    os.write(2, line)
    again()
    assert len(refusals) == 2
raise RuntimeError("the last word")
"""


@pytest.mark.parametrize("way", ["ended", "left on"])
def test_everything_arrives_in_order_to_the_last_word(way: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROCESS, way], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: the last word\n"), done.stderr[-2000:]
    lines = done.stderr.splitlines()
    for name in "abc":
        assert [line for line in lines if line.startswith(f"{name} ")] == [
            f"{name} {n} {'x' * 90}" for n in range(2000)
        ]
    assert sum("HTTP_REQUEST" in line for line in lines) == (3 if way == "ended" else 1)
    assert "\x00" not in done.stderr


def test_a_reader_that_goes_away_stops_nothing() -> None:
    script = """
import os
from fedstudy.wire.handshakes import watch_handshakes
refusals = []
end = watch_handshakes(refusals.append)
os.read(0, 1)
for _ in range(3000):
    os.write(2, b"x" * 100 + b"\\n")
os.write(2, b"ssl_transport_security.cc:1] Handshake failed: OPENSSL_internal:HTTP_REQUEST: x\\n")
end()
print(len(refusals))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    process.stderr.close()
    process.stderr = None
    out, _ = process.communicate(b"\n", timeout=60)
    assert (process.returncode, out) == (0, b"1\n")
