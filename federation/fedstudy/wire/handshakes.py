"""Failed TLS handshakes, made visible: grpc tells nobody but its log, so its log on standard error is read.

While somebody watches, file descriptor 2 is a pipe; a thread passes everything on to the real standard error at once and looks
for grpc's line on a failed handshake. grpc core names no address there, and a handshake that this process's own clients
fail looks the same: both are recorded, since both are a certificate that somebody ought to look at. GRPC_VERBOSITY, where it
is set, must be INFO or DEBUG: with ERROR or NONE grpc does not say it, and nothing is recorded.
"""

from __future__ import annotations

import atexit
import os
import re
import threading
from collections.abc import Callable

from fedstudy.wire.auth import Refusal, now

_LINE = re.compile(
    rb"ssl_transport_security[^\n]*Handshake failed[^\n]*OPENSSL_internal:([A-Z0-9_]+)(?:: ([^\n]*))?"
)
_END = b"\x00fedstudy: end of watch\x00\n"
_MAX_LINE = 64 << 10
_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no client certificate",
    "NO_SHARED_CIPHER": "TLS older than 1.3",
    "UNSUPPORTED_PROTOCOL": "TLS older than 1.3",
    "HTTP_REQUEST": "not TLS",
    "WRONG_VERSION_NUMBER": "not TLS",
}


def reason_of(line: bytes) -> str | None:
    """Why a handshake failed, where a line of grpc's log says that one did.

    Returns:
        `no client certificate`, `certificate expired`, `certificate of another authority`, `TLS older than 1.3`, …;
        None for any other line.
    """
    match = _LINE.search(line)
    if match is None:
        return None
    code, detail = match[1].decode(), (match[2] or b"").decode(errors="replace")
    if code != "CERTIFICATE_VERIFY_FAILED":
        return _REASONS.get(code, f"handshake failed: {code}")
    if "expired" in detail:
        return "certificate expired"
    if "not yet valid" in detail:
        return "certificate not yet valid"
    if "purpose" in detail:
        return "certificate for another purpose"
    if "issuer" in detail or "self" in detail or "signature" in detail:
        return "certificate of another authority"
    return f"certificate refused: {detail}"


def watch_handshakes(on_refusal: Callable[[Refusal], None]) -> Callable[[], None]:
    """Call back, in a thread of its own, for every failed handshake of this process; returns what ends the watch.

    Args:
        on_refusal: quick and thread-safe; is not called any more once the watch has ended.
    """
    return _STANDARD_ERROR.watch(on_refusal)


class _StandardError:
    """The pipe in the place of file descriptor 2; there while at least one watcher is."""

    def __init__(self) -> None:
        self._install = threading.Lock()  # taken first; guards what follows
        self._call = threading.Lock()  # guards `_watchers`; held while they are called
        self._watchers: list[Callable[[Refusal], None]] = []
        self._thread: threading.Thread | None = None
        self._real = self._pipe = -1

    def watch(self, on_refusal: Callable[[Refusal], None]) -> Callable[[], None]:
        with self._install:
            if self._thread is not None and not self._in_place():
                self._remove()  # somebody put another file in descriptor 2, as pytest does between tests
            if self._thread is None:
                self._put()
            with self._call:
                self._watchers.append(on_refusal)

        def end() -> None:
            with self._install:
                if self._watchers == [on_refusal]:
                    self._remove()  # before it leaves: what is still in the pipe is for it
                with self._call:
                    if on_refusal in self._watchers:
                        self._watchers.remove(on_refusal)

        return end

    def close(self) -> None:
        """Put the real standard error back, with everything passed on."""
        with self._install:
            self._remove()

    def _in_place(self) -> bool:
        try:
            return os.path.sameopenfile(2, self._pipe)
        except OSError:
            return False

    def _put(self) -> None:
        self._real = os.dup(2)
        source, self._pipe = os.pipe()
        os.dup2(self._pipe, 2)
        self._thread = threading.Thread(
            target=self._pass_on, args=(source, self._real), name="handshakes", daemon=True
        )
        self._thread.start()

    def _remove(self) -> None:
        if self._thread is None:
            return
        if self._in_place():
            os.dup2(self._real, 2)
        os.write(self._pipe, _END)
        self._thread.join()
        self._thread = None
        os.close(self._pipe)
        os.close(self._real)

    def _pass_on(self, source: int, real: int) -> None:
        rest = b""
        with open(source, "rb", buffering=0) as pipe:
            while data := pipe.read(_MAX_LINE):
                rest += data
                end = rest.find(_END)
                _write_all(real, data if end < 0 else rest[len(rest) - len(data) : end])
                *lines, rest = (rest if end < 0 else rest[:end]).split(b"\n")
                for line in lines:
                    if reason := reason_of(line):
                        self._tell(Refusal(now(), "", "", reason))
                if end >= 0:
                    return
                rest = rest[-_MAX_LINE:]

    def _tell(self, refusal: Refusal) -> None:
        with self._call:
            for watcher in self._watchers:
                watcher(refusal)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError:
        return  # nobody reads standard error any more; the watch goes on


_STANDARD_ERROR = _StandardError()
atexit.register(_STANDARD_ERROR.close)
