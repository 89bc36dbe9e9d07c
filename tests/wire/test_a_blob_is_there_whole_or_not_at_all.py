"""The store of files by content: what is in it is whole, verified and named by its digest."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstudy import tensors
from fedstudy.errors import ConnectionLostError, UpdateError
from fedstudy.tensors import HASH, Blob
from fedstudy.wire.blobs import BlobStore
from fedstudy.wire.writeback import STEP


def _blob(data: bytes) -> Blob:
    return Blob.of(data)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "store")


@settings(deadline=None)
@given(
    data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=5), again=st.integers(0, 300)
)
def test_any_cutting_into_parts_and_any_resumption_gives_the_blob(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts: list[int], again: int
) -> None:
    store, blob = BlobStore(tmp_path_factory.mktemp("store")), _blob(data)
    begin = 0
    with store.receive(blob, 0) as receiver:
        for cut in sorted(min(cut, len(data)) for cut in cuts):
            receiver.write(data[begin:cut])
            begin = cut
    assert store.held(blob.digest, blob.size) == begin
    assert not store.has(blob.digest) and store.blob(blob.digest) is None
    offset = min(again, begin)
    receiver = store.receive(blob, offset)
    receiver.write(data[offset:])
    assert receiver.finish().read_bytes() == data
    assert store.blob(blob.digest) == blob and store.digests() == {blob.digest}
    assert store.held(blob.digest, blob.size) == blob.size


@pytest.mark.parametrize(
    "digest", ["", "blake3:", "blake3:../../x", "blake3:" + "A" * 64, "a" * 64, "blake3:" + "0" * 64 + "\n"]
)
def test_what_is_no_digest_names_no_file(store: BlobStore, digest: str) -> None:
    for ask in (store.path, store.has, store.blob, store.delete, lambda d: store.held(d, 1)):
        with pytest.raises(UpdateError, match="is not a digest"):
            ask(digest)
    with pytest.raises(UpdateError, match="is not a digest"):
        store.receive(Blob(digest, 1), 0)


def test_a_blob_that_is_on_its_way_to_disk_while_it_comes_is_whole(store: BlobStore) -> None:
    data = os.urandom(3 * STEP + 5)
    blob = _blob(data)
    for begin, end in ((0, 2 * STEP + 3), (2 * STEP + 3, len(data))):
        with store.receive(blob, begin) as receiver:
            for at in range(begin, end, 1 << 20):
                receiver.write(data[at : min(end, at + (1 << 20))])
            if end == len(data):
                receiver.finish()
    assert store.path(blob.digest).read_bytes() == data


def test_a_wrong_digest_deletes_the_upload(store: BlobStore) -> None:
    blob = _blob(b"right")
    receiver = store.receive(blob, 0)
    receiver.write(b"wrong")
    with pytest.raises(UpdateError, match="declared as"):
        receiver.finish()
    assert store.held(blob.digest, 5) == 0 and store.digests() == set()


def test_missing_bytes_may_still_come(store: BlobStore) -> None:
    blob = _blob(b"right")
    receiver = store.receive(blob, 0)
    receiver.write(b"rig")
    with pytest.raises(ConnectionLostError, match="ended after 3 of 5 bytes"):
        receiver.finish()
    assert store.held(blob.digest, 5) == 3


def test_more_bytes_than_declared_delete_the_upload(store: BlobStore) -> None:
    blob = _blob(b"right")
    receiver = store.receive(blob, 0)
    receiver.write(b"righ")
    with pytest.raises(UpdateError, match="more than the 5 bytes declared"):
        receiver.write(b"t and more")
    assert store.held(blob.digest, 5) == 0


def test_a_part_longer_than_the_blob_counts_for_nothing(store: BlobStore) -> None:
    blob = _blob(b"right")
    with store.receive(blob, 0) as receiver:
        receiver.write(b"righ")
    assert store.held(blob.digest, 3) == 0


def test_a_newer_upload_takes_over(store: BlobStore) -> None:
    blob = _blob(b"right")
    older = store.receive(blob, 0)
    older.write(b"ri")
    newer = store.receive(blob, 2)
    with pytest.raises(ConnectionLostError, match="took over"):
        older.write(b"XXX")
    with pytest.raises(ConnectionLostError, match="took over"):
        older.finish()
    newer.write(b"ght")
    assert newer.finish().read_bytes() == b"right"


def test_an_upload_can_only_go_on_where_bytes_are_held(store: BlobStore) -> None:
    blob = _blob(b"right")
    with pytest.raises(ConnectionLostError, match="Only 0 bytes"):
        store.receive(blob, 3)
    for offset in (-1, 6):
        with pytest.raises(UpdateError, match="cannot go on"):
            store.receive(blob, offset)


async def test_many_uploads_of_one_blob_at_once_leave_it_whole(store: BlobStore) -> None:
    data = os.urandom(1 << 20)
    blob = _blob(data)

    async def upload() -> None:
        while not store.has(blob.digest):
            offset = store.held(blob.digest, blob.size)
            try:
                with store.receive(blob, offset) as receiver:
                    for begin in range(offset, blob.size, 1 << 16):
                        receiver.write(data[begin : begin + (1 << 16)])
                        if begin % 3 == 0:
                            await asyncio.sleep(0)
                    await asyncio.to_thread(receiver.finish)
            except ConnectionLostError:
                await asyncio.sleep(0)  # another took over, or is being verified

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(upload())
    assert store.path(blob.digest).read_bytes() == data


def test_files_bytes_and_tensors_are_taken_in(store: BlobStore, tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(b"from a file")
    blob = store.add_file(file)
    assert blob == _blob(b"from a file") and not file.exists()
    assert store.path(blob.digest).read_bytes() == b"from a file"
    assert store.add_bytes(b"from a file") == blob
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    written = store.add_tensors({"w": array}, {"kind": "TRAIN"})
    assert np.array_equal(tensors.read(store.path(written.digest))["w"], array)
    assert store.digests() == {blob.digest, written.digest}
    store.delete(blob.digest)
    store.delete(blob.digest)
    assert store.digests() == {written.digest}


def test_a_file_of_another_disk_is_taken_in(store: BlobStore) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == store.path("blake3:" + "0" * 64).parent.stat().st_dev:
        pytest.skip("there is no second file system")
    file = memory / f"fedstudy-{os.getpid()}"
    file.write_bytes(b"from afar")
    blob = store.add_file(file)
    assert store.path(blob.digest).read_bytes() == b"from afar" and not file.exists()


_SMALL_DISK = """
import sys
from pathlib import Path
from fedstudy.errors import NoSpaceError
from fedstudy.tensors import Blob
from fedstudy.wire.blobs import BlobStore

root = Path(sys.argv[1])
store = BlobStore(root)
def refused(act):
    try:
        act()
    except NoSpaceError as error:
        assert "No space left" in error.message and error.remedy, error
        return
    raise SystemExit("no NoSpaceError")

big = Blob("blake3:" + "0" * 64, 8 << 20)
refused(lambda: store.receive(big, 0))                       # said before the first byte
refused(lambda: store.add_bytes(bytes(8 << 20)))
refused(lambda: store.add_file(Path(sys.argv[2])))
assert store.digests() == set() and Path(sys.argv[2]).exists()

receiver = store.receive(Blob(big.digest, 1 << 20), 0)       # there is room now, but somebody else takes it
receiver.write(b"x" * 4096)
ballast = (root / "ballast").open("wb", buffering=0)
try:
    while True:
        ballast.write(bytes(4096))
except OSError:
    pass
refused(lambda: receiver.write(bytes(1 << 19)))
assert 4096 <= store.held(big.digest, 1 << 20)               # what came is kept
print("full")
"""


def test_a_full_disk_is_a_typed_error_and_keeps_what_has_come(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(bytes(8 << 20))
    (tmp_path / "disk").mkdir()
    script = f'mount -t tmpfs -o size=2m none "{tmp_path}/disk" && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh"]
    try:
        possible = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("this machine does not let us mount a small disk")
    done = subprocess.run(
        [*command, sys.executable, "-c", _SMALL_DISK, str(tmp_path / "disk"), str(outside)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "full\n"), done.stderr


def test_killing_the_process_leaves_no_blob_that_is_not_whole(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from fedstudy.wire.blobs import BlobStore
store = BlobStore(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    store.add_bytes(os.urandom(1 << 16))
"""
    root = tmp_path / "store"
    process = subprocess.Popen([sys.executable, "-c", script, str(root)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    while len(list((root / HASH).iterdir())) < 5:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store = BlobStore(root)
    assert len(store.digests()) >= 4
    for digest in store.digests():
        assert tensors.digest_file(store.path(digest)).digest == digest
    assert not list((root / HASH).glob(".*"))
