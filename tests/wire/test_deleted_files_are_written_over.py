"""What is deleted is kept to be written over: no reader notices, no upload is wronged, and the room is given back when it is needed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedstudy.errors import NoSpaceError
from fedstudy.tensors import Blob, digest_file
from fedstudy.wire import blobs as blobs_module
from fedstudy.wire import spares
from fedstudy.wire.blobs import BlobStore
from fedstudy.wire.writeback import STEP

SIZE = spares.LEAST + 12345


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "store", durable=False)


def new(size: int = SIZE) -> tuple[bytes, Blob]:
    data = os.urandom(size)
    path = Path("/dev/shm") / f"fedstudy-{os.getpid()}"
    path.write_bytes(data)
    blob = digest_file(path)
    path.unlink()
    return data, blob


def take_in(store: BlobStore, data: bytes, blob: Blob) -> int:
    """Upload it; the number of the file that it lies in."""
    with store.receive(blob, 0) as receiver:
        receiver.write(data)
        return receiver.finish().stat().st_ino


@pytest.mark.parametrize("size", [SIZE, SIZE - 999, SIZE + 999])
def test_an_upload_lies_in_the_file_of_one_that_was_deleted(store: BlobStore, size: int) -> None:
    first, (data, blob) = new(), new(size)
    number = take_in(store, *first)
    store.delete(first[1].digest)
    assert not store.has(first[1].digest) and store.digests() == set()
    assert take_in(store, data, blob) == number
    assert store.path(blob.digest).read_bytes() == data
    assert os.listxattr(store.path(blob.digest)) == []


def test_a_durable_store_writes_over_a_file_once_its_name_is_gone_from_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, first = BlobStore(tmp_path / "durable"), new()
    waiting = list[Callable[[], None]]()
    monkeypatch.setattr(spares, "_thread", SimpleNamespace(submit=waiting.append))
    number = take_in(store, *first)
    store.delete(first[1].digest)
    second, third = new(), new()
    assert take_in(store, *second) != number
    waiting[0]()
    assert take_in(store, *third) == number


def test_whoever_still_reads_a_deleted_file_reads_it_to_its_end(store: BlobStore) -> None:
    data, blob = new()
    take_in(store, data, blob)
    with store.path(blob.digest).open("rb") as reader:
        store.delete(blob.digest)
        take_in(store, *new())
        assert reader.read() == data


def test_a_part_that_is_written_over_an_older_file_is_no_longer_than_what_has_come(
    store: BlobStore, tmp_path: Path
) -> None:
    size = 2 * STEP + 500
    first, (data, blob) = new(size), new(size)
    take_in(store, *first)
    store.delete(first[1].digest)
    receiver = store.receive(blob, 0)
    assert store.held(blob.digest, size) == 0
    receiver.write(data[: STEP + 100])
    assert store.held(blob.digest, size) == STEP + 100, "so that a process that is killed now begins there"
    receiver.write(data[STEP + 100 : STEP + 300])
    receiver.close()
    assert store.held(blob.digest, size) == STEP + 300
    with store.receive(blob, STEP + 300) as rest:
        rest.write(data[STEP + 300 :])
        assert rest.finish().read_bytes() == data


def test_small_files_and_what_a_former_process_left_are_not_kept(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "store", durable=False)
    for data, blob in (new(100), new()):
        take_in(store, data, blob)
        store.delete(blob.digest)
    folder = tmp_path / "store" / "spare"
    assert len(list(folder.iterdir())) == 1
    BlobStore(tmp_path / "store")
    assert list(folder.iterdir()) == []


def test_a_disk_that_is_short_of_room_gets_the_spare_files_back(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, blob = new()
    take_in(store, data, blob)
    store.delete(blob.digest)
    folder = tmp_path / "store" / "spare"
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(blobs_module.shutil, "disk_usage", lambda path: _usage(path, free=0))
    with pytest.raises(NoSpaceError):
        store.receive(Blob(blob.digest, 3 * SIZE), 0)
    assert list(folder.iterdir()) == []


def test_nothing_is_kept_where_the_disk_is_nearly_full(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, blob = new()
    take_in(store, data, blob)
    monkeypatch.setattr(spares.shutil, "disk_usage", lambda path: _usage(path, free=SIZE))
    store.delete(blob.digest)
    assert list((tmp_path / "store" / "spare").iterdir()) == []


def _usage(path: Any, free: int) -> Any:
    return shutil._ntuple_diskusage(1 << 40, (1 << 40) - free, free)  # type: ignore[attr-defined]
