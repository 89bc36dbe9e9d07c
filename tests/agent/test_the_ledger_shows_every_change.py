"""The hash-chained ledger: what is changed, taken out or cut off shows; what a crash tore is repaired and recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedstudy.agent.ledger import GENESIS, Head, Ledger, entries, verify
from fedstudy.errors import RefusedError

_FILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def written(path: Path, count: int = 4) -> Head:
    path.unlink(missing_ok=True)
    ledger = Ledger(path)
    for number in range(count):
        ledger.append(
            "answer", instruction=f"{number:04d}-000-train-a", kind="TRAIN", digest="sha256:" + "1" * 64,
            size=100 + number, fields={"samples": 12, "loss": 0.25, "seconds": 3.0},
        )  # fmt: skip
    return ledger.head


def test_a_chain_verifies_and_ends_at_its_head(tmp_path: Path) -> None:
    head = written(tmp_path / "ledger.jsonl")
    assert verify(tmp_path / "ledger.jsonl") == head
    assert head.entries == 4
    assert Head.parse(str(head)) == head


def test_an_empty_ledger_is_the_start_of_every_chain(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "ledger.jsonl").head == Head(0, GENESIS) == Head.parse("")


@_FILE
@given(st.data())
def test_any_flipped_bit_is_detected(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "ledger.jsonl"
    head = written(path, 2)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(content))
    with pytest.raises(RefusedError):
        verify(path, known_head=head)


@pytest.mark.parametrize("line", range(4))
def test_a_line_taken_out_is_detected(tmp_path: Path, line: int) -> None:
    path = tmp_path / "ledger.jsonl"
    head = written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:line] + lines[line + 1 :]))
    with pytest.raises(RefusedError):
        verify(path, known_head=head)


@pytest.mark.parametrize("kept", range(4))
def test_a_truncation_shows_against_a_known_head(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "ledger.jsonl"
    head = written(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:kept]))
    assert verify(path).entries == kept  # by itself a shorter chain is whole
    with pytest.raises(RefusedError, match="cut short"):
        verify(path, known_head=head)
    with pytest.raises(RefusedError, match="cut short"):
        Ledger(path, known_head=head)


def test_a_chain_written_anew_shows_against_a_known_head(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    head = written(path, 3)
    ledger = Ledger(tmp_path / "other.jsonl")
    for _ in range(5):
        ledger.append("progress")
    with pytest.raises(RefusedError, match="rewritten"):
        verify(tmp_path / "other.jsonl", known_head=head)


def test_lines_that_change_places_are_detected(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[2], lines[1], lines[3]]))
    with pytest.raises(RefusedError, match="line 2"):
        verify(path)


def test_another_spelling_of_the_same_entry_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path, 1)
    path.write_text(json.dumps(json.loads(path.read_text())) + "\n")
    with pytest.raises(RefusedError):
        verify(path)


@_FILE
@given(st.data())
def test_a_line_torn_by_a_kill_is_cut_off_and_recorded(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    left = data.draw(st.integers(1, len(lines[2]) - 1))
    path.write_bytes(b"".join(lines[:2]) + lines[2][:left])
    ledger = Ledger(path)
    assert [entry.what for entry in entries(path)] == ["answer", "answer", "repaired"]
    ledger.append("answer")
    assert verify(path) == ledger.head


def test_a_changed_line_is_never_repaired(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path)
    path.write_bytes(path.read_bytes().replace(b'"bytes":101', b'"bytes":001'))
    before = path.read_bytes()
    with pytest.raises(RefusedError, match="line 2"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_ledger_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    head = written(path)
    ledger = Ledger(path, known_head=head)
    assert ledger.bytes_sent == 100 + 101 + 102 + 103
    assert ledger.has("answer", "0002-000-train-a", "sha256:" + "1" * 64)
    assert not ledger.has("answer", "0009-000-train-a", "sha256:" + "1" * 64)
    ledger.append("failure")
    assert verify(path, known_head=head).entries == 5
