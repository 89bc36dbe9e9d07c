"""Files that nothing needs any more, kept to be written over: their pages are in memory, their blocks on disk are given.

A new file costs the kernel a page for every 4 KiB written, and a virtual machine's kernel often has to get it from its host first.
That was the dearest part of taking a model in: up to 2 CPU seconds a GB, where writing over a file takes 0.1.

Nobody's bytes change under his eyes: a file is written over only when the kernel grants a lease on it, which it does when nobody else
has it open. Nor does a crash bring back an old name with new bytes: what is durable here is that the name is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

LEAST = 4 << 20
"""Bytes below which a file is not worth keeping."""

MOST = 4 << 30
"""Bytes that are kept at most, and never more than a quarter of what is free on the disk."""

_thread = ThreadPoolExecutor(1, "spares")


@dataclass(frozen=True)
class _Spare:
    path: Path
    size: int


class Spares:
    """The spare files of one store.

    Args:
        folder: where they are; what is left there of an earlier process is removed.
        whole: the folder that they come from.
        durable: whether that they have left it is to be on disk before they are written over.
    """

    def __init__(self, folder: Path, whole: Path, *, durable: bool) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder, self._whole, self._durable = folder, whole, durable
        self._numbers, self._lock = count(), threading.Lock()
        self._leaving, self._ready = list[_Spare](), list[_Spare]()

    def retire(self, path: Path) -> None:
        """Take a file that nobody needs; no error where there is none."""
        try:
            size = path.stat().st_size
            if not LEAST <= size <= self._room():
                path.unlink()
                return
            spare = _Spare(self._folder / str(next(self._numbers)), size)
            path.rename(spare.path)
        except FileNotFoundError:
            return
        with self._lock:
            (self._leaving if self._durable else self._ready).append(spare)
        if self._durable:
            _thread.submit(self._have_left)

    def take(self, target: Path, size: int) -> bool:
        """Have a file of about that size at `target`, with whatever is in it; False where there is none."""
        if size < LEAST:
            return False
        with self._lock:
            for spare in sorted(self._ready, key=lambda spare: abs(spare.size - size)):
                try:
                    if not _nobody_has_it_open(spare.path):
                        continue
                    self._ready.remove(spare)
                    spare.path.rename(target)
                except OSError:  # a file system without leases, or one that is full: a new file it is
                    self._forget()
                    return False
                return True
        return False

    def forget(self) -> None:
        """Remove them all: the room is needed."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        for spare in [*self._ready, *self._leaving]:
            spare.path.unlink(missing_ok=True)
        self._ready, self._leaving = [], []

    def _room(self) -> int:
        with self._lock:
            held = sum(spare.size for spare in [*self._ready, *self._leaving])
        return min(MOST, shutil.disk_usage(self._folder).free // 4) - held

    def _have_left(self) -> None:
        """In a thread: what had left the folder when it was synced may be written over."""
        with self._lock:
            leaving = list(self._leaving)
        if not leaving:
            return  # they were synced with the one before
        with contextlib.suppress(OSError):  # they stay where they are, and are never written over
            descriptor = os.open(self._whole, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            with self._lock:
                self._ready += [spare for spare in self._leaving if spare in leaving]
                self._leaving = [spare for spare in self._leaving if spare not in leaving]


def _nobody_has_it_open(path: Path) -> bool:
    """Whether the kernel grants a lease for writing: not while another descriptor or mapping of the file is left."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.fcntl(
            descriptor, fcntl.F_SETSIG, signal.SIGURG
        )  # whoever opens it now ends no process by SIGIO
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return os.fstat(descriptor).st_nlink == 1
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
