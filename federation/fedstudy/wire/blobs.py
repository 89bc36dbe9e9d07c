"""Content-addressed files: a blob is there whole and verified, or it is not there; a partial upload can go on.

    <root>/blake3/<hex>     whole, verified, fsynced
    <root>/partial/<hex>    what has come so far; a prefix of the blob, verified only when it is whole
    <root>/spare/<number>   what was deleted, to be written over by the next upload (`fedstudy.wire.spares`)

A store belongs to one process. Receiving is single-writer for each digest: a new upload takes over from an old one, whose connection
is then most likely dead without our knowing.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from weakref import WeakValueDictionary

from blake3 import blake3

from fedstudy.errors import ConnectionLostError, NoSpaceError, UpdateError
from fedstudy.tensors import HASH, Array, Blob, digest_file, digest_of, encode, write_bytes
from fedstudy.wire.spares import Spares
from fedstudy.wire.writeback import STEP, Writeback

_MARK = "user.fedstudy.held"
"""Extended attribute of a partial upload that is written over an older, longer file: how many bytes are the upload's."""

_DIGEST = re.compile(HASH + r":([0-9a-f]{64})")
_NAME = re.compile(r"[0-9a-f]{64}")


def path_of(root: Path, digest: str) -> Path:
    """Where the store under a folder has a blob, or would have it.

    Raises:
        UpdateError: that is no digest.
    """
    return root / HASH / _hex(digest)


class BlobStore:
    """Files by digest under one folder.

    Args:
        root: the folder; made where it is missing.
        durable: what is put in is on disk when the call returns. A store that is not begins empty: a cache of what can be
            fetched or made again.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self._sync = _fsync if durable else _leave
        self._whole, self._partial = root / HASH, root / "partial"
        if not durable:
            shutil.rmtree(self._whole, ignore_errors=True)
            shutil.rmtree(self._partial, ignore_errors=True)
        for folder in (self._whole, self._partial):
            folder.mkdir(parents=True, exist_ok=True)
        for leftover in (*self._whole.glob(".*.part"), *self._partial.glob(".*.spare")):
            leftover.unlink()
        self._spares = Spares(root / "spare", self._whole, durable=durable)
        self._lock = threading.Lock()  # between receive and finish, which may run in a thread
        self._receivers: WeakValueDictionary[str, Receiver] = WeakValueDictionary()

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be.

        Raises:
            UpdateError: not a digest.
        """
        return self._whole / _hex(digest)

    def has(self, digest: str) -> bool:
        """Whether the blob is there, whole."""
        return self.path(digest).is_file()

    def blob(self, digest: str) -> Blob | None:
        """The blob with its size, if it is there."""
        try:
            return Blob(digest, self.path(digest).stat().st_size)
        except FileNotFoundError:
            return None

    def digests(self) -> set[str]:
        """All blobs that are there."""
        return {f"{HASH}:{path.name}" for path in self._whole.iterdir() if _NAME.fullmatch(path.name)}

    def add_file(self, path: Path, known: Blob | None = None) -> Blob:
        """Move a file in, durably.

        Args:
            path: the file; it is gone afterwards.
            known: what whoever wrote it, durably, has found while writing: it is neither read nor synced again.

        Raises:
            NoSpaceError: the store is on another disk, which is full; the file stays where it was.
        """
        blob = known or digest_file(path)
        target = self.path(blob.digest)
        try:
            if known is None:
                self._sync(path)
            path.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise _translated(error, target) from error
            self._copy_in(path, target)
        self._sync(self._whole)
        return blob

    def add_bytes(self, data: bytes) -> Blob:
        """Write a blob, durably.

        Raises:
            NoSpaceError: the disk is full.
        """
        blob = Blob.of(data)
        if not self.has(blob.digest):
            write_bytes(self.path(blob.digest), data)
            _fsync(self._whole)
        return blob

    def add_tensors(self, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> Blob:
        """Write the canonical tensor file, durably.

        Raises:
            NoSpaceError: the disk is full.
            UpdateError: a dtype that the format does not have.
        """
        return self.add_bytes(encode(tensors, metadata))

    def delete(self, digest: str) -> None:
        """Remove the blob and what there is of an upload of it; no error where there is nothing."""
        self._spares.retire(self.path(digest))
        (self._partial / _hex(digest)).unlink(missing_ok=True)

    def lend(self, target: Path, size: int) -> None:
        """Put a file that nobody needs at `target`, on the same disk, to be written over; nothing where there is none."""
        self._spares.take(target, size)

    def make_room(self) -> None:
        """Give back to the disk what is kept for speed alone."""
        self._spares.forget()

    def held(self, digest: str, size: int) -> int:
        """How many bytes of a blob of `size` are here: an upload goes on from there."""
        if self.has(digest):
            return size
        there = _held(self._partial / _hex(digest))
        return there if there <= size else 0

    def receive(self, blob: Blob, offset: int) -> Receiver:
        """Go on with an upload from `offset`; bytes held beyond it are dropped.

        Raises:
            UpdateError: digest, size or offset is not valid.
            ConnectionLostError: fewer bytes are held, or the upload is just being verified: ask again (`held`).
            NoSpaceError: the disk has not enough room for the rest.
        """
        name = _hex(blob.digest)
        if not 0 <= offset <= blob.size:
            raise UpdateError(f"An upload of {blob.size} bytes cannot go on at byte {offset}.")
        with self._lock:
            if (before := self._receivers.get(name)) is not None and not before.supersede():
                raise ConnectionLostError(f"The upload of {blob.digest} is being verified.", "Ask again.")
            path = self._partial / name
            if (there := _held(path)) < offset:
                raise ConnectionLostError(
                    f"Only {there} bytes of {blob.digest} are held, not {offset}.", "Ask again."
                )
            self._place(path, blob.size)
            receiver = Receiver(blob, path, self._whole / name, offset, self._lock, self._sync)
            self._receivers[name] = receiver
            return receiver

    def _place(self, path: Path, size: int) -> None:
        """Have room for an upload: in what is there of it, in a spare file, or on the disk.

        Raises:
            NoSpaceError: there is none.
        """
        if not path.exists():
            part = path.with_name(f".{path.name}.spare")
            if self._spares.take(part, size) and _mark(part, 0):
                part.rename(path)
            part.unlink(missing_ok=True)
        wanted = size - (path.stat().st_size if path.exists() else 0)
        if shutil.disk_usage(self._partial).free < wanted:
            self._spares.forget()
            if shutil.disk_usage(self._partial).free < wanted:
                raise _full(path)

    def _copy_in(self, path: Path, target: Path) -> None:
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            shutil.copyfile(path, part)
            _fsync(part)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise _translated(error, target) from error
        part.replace(target)
        path.unlink()


class Receiver:
    """One upload as it comes. Made by `BlobStore.receive`; closed by `finish`, by `close`, or as a context manager.

    All of a store's receivers are used from one thread, the event loop's; only `finish` may run in another.
    """

    def __init__(
        self,
        blob: Blob,
        path: Path,
        target: Path,
        offset: int,
        lock: threading.Lock,
        sync: Callable[[Path], None],
    ) -> None:
        self.blob = blob
        self.resumed = offset > 0
        self._path, self._target, self._lock, self._sync = path, target, lock, sync
        self._position = offset
        # A part that was held is not hashed here, where the event loop would wait, but with the rest at the end.
        self._state = None if self.resumed else blake3()
        self._finishing = False
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._marked = _is_marked(path)
        if self._marked:
            _mark(self._descriptor, offset)
        else:
            os.ftruncate(self._descriptor, offset)
        self._told = offset
        os.lseek(self._descriptor, offset, os.SEEK_SET)
        self._writeback = Writeback(self._descriptor, offset) if sync is _fsync else None

    def __enter__(self) -> Receiver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._release()

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes.

        Raises:
            UpdateError: more bytes than were declared; the upload is deleted.
            NoSpaceError: the disk is full; what was written is kept.
            ConnectionLostError: a newer upload of the same blob took over.
        """
        self._require_open()
        if self._position + len(data) > self.blob.size:
            self._drop()
            raise UpdateError(
                f"The upload of {self.blob.digest} has more than the {self.blob.size} bytes declared."
            )
        view = memoryview(data)
        try:
            while view:
                written = os.write(self._descriptor, view)
                self._position += written
                view = view[written:]
            if self._writeback is not None:
                self._writeback.grown(self._position)
            if self._marked and self._position - self._told >= STEP:
                self._told = self._position
                os.setxattr(self._descriptor, _MARK, b"%d" % self._position)
        except OSError as error:
            self.close()
            raise _translated(error, self._path) from error
        if self._state is not None:
            self._state.update(data)

    def finish(self) -> Path:
        """Verify and put in place, durably. May run in a thread; takes as long as the disk does.

        Raises:
            UpdateError: the digest is wrong; the upload is deleted.
            NoSpaceError: the disk is full; what was written is kept.
            ConnectionLostError: bytes are missing, which may still come (a line that is cut looks as if the peer had ended); or a
                newer upload of the same blob took over.
        """
        with self._lock:
            self._require_open()
            self._finishing = True
        try:
            if self._position != self.blob.size:
                raise ConnectionLostError(
                    f"The stream of {self.blob.digest} ended after {self._position} of {self.blob.size} bytes.",
                    "Go on with what is left.",
                )
            self._cut()
            found = digest_of(self._state) if self._state is not None else digest_file(self._path).digest
            if found != self.blob.digest:
                self._drop()
                raise UpdateError(f"The upload declared as {self.blob.digest} is {found}.")
            self._sync(self._path)
            self._path.replace(self._target)
            self._sync(self._target.parent)  # a name that stays behind in the other folder does no harm
        except OSError as error:
            raise _translated(error, self._path) from error
        finally:
            self._release()
            self._finishing = False
        return self._target

    def close(self) -> None:
        """Let go; what has come is kept for later. No effect the second time, or while `finish` runs, which closes itself."""
        with self._lock:
            if not self._finishing:
                self._release()

    def supersede(self) -> bool:
        """Close in favour of a newer upload, under the lock; False while the bytes are being verified."""
        if self._finishing:
            return False
        self._release()
        return True

    def _cut(self) -> None:
        """All bytes are here: what is left behind them of an older file goes."""
        if self._marked:
            os.ftruncate(self._descriptor, self._position)
            os.removexattr(self._descriptor, _MARK)
            self._marked = False

    def _release(self) -> None:
        descriptor, self._descriptor = getattr(self, "_descriptor", -1), -1
        if descriptor >= 0:
            if self._marked:
                _mark(descriptor, self._position)
            os.close(descriptor)

    def _drop(self) -> None:
        self._release()
        self._path.unlink(missing_ok=True)

    def _require_open(self) -> None:
        if self._descriptor < 0:
            raise ConnectionLostError(
                f"Another upload of {self.blob.digest} took over, or this one has ended.", "Ask again."
            )


def _held(path: Path) -> int:
    """Bytes of a partial upload that are in its file; 0 where there is none."""
    try:
        return int(os.getxattr(path, _MARK)) if _is_marked(path) else path.stat().st_size
    except FileNotFoundError:
        return 0


def _is_marked(path: Path) -> bool:
    try:
        return _MARK in os.listxattr(path)
    except OSError:  # no such file, or a file system without extended attributes
        return False


def _mark(file: Path | int, held: int) -> bool:
    """Say of a file that is written over how much of it is new; False where the file system cannot."""
    try:
        os.setxattr(file, _MARK, b"%d" % held)
    except OSError:
        return False
    return True


def _hex(digest: str) -> str:
    if match := _DIGEST.fullmatch(digest):
        return match[1]
    raise UpdateError(f"{digest[:100]!r} is not a digest ({HASH}: and 64 hexadecimal digits).")


def _full(path: Path) -> NoSpaceError:
    return NoSpaceError(f"No space left to write {path}.", "Free some space; the transfer then goes on.")


def _translated(error: OSError, path: Path) -> Exception:
    return _full(path) if error.errno in (errno.ENOSPC, errno.EDQUOT) else error


def _leave(path: Path) -> None:
    """In place of fsync, in a store that is not durable."""


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
