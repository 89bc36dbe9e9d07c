"""A peer that is refused for ever costs a bounded number of rows, and no refusal goes uncounted."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.clock import Clock

from fedstudy.aggregator.history import first_fault
from fedstudy.aggregator.refused import MAX_ROWS, MAX_TEXT, peer_group
from fedstudy.aggregator.state import State
from fedstudy.aggregator.store import Store

Refusal = tuple[str, str, str]
PEERS = st.sampled_from(["", "site/north", "ipv4:10.0.0.1:4711", "ipv4:10.0.0.1:4712"]) | st.text(
    max_size=2000
)
METHODS = st.sampled_from(["", "/fedstudy.v1.Federation/Offer", "Submit 0001-000-train-north"]) | st.text(
    max_size=30
)


def a_store(folder: Path) -> Store:
    return Store(folder, plan=b"{}", digest="sha256:1")


def rows(store: Store, table: str) -> int:
    return int(store.db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])


def history_bound(refusals: int) -> int:
    """One for the creation of the study, and for each row of the table one per power of ten."""
    return 1 + MAX_ROWS * len(str(refusals))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(PEERS, METHODS, st.text(max_size=40)), max_size=20), st.integers(0, 320))
def test_any_refusals_give_at_most_the_bound_of_rows_and_exact_totals(
    some: list[Refusal], strangers: int
) -> None:
    refusals = [*some, *((f"site/{n}", f"/a.B/M{n}", "no") for n in range(strangers)), *some]
    with tempfile.TemporaryDirectory() as folder:
        store = a_store(Path(folder))
        for refusal in refusals:
            store.refuse(*refusal)
        store.write_refusals()
        assert store.refusals() == len(refusals) == sum(store.figures().refusals.values())
        assert rows(store, "refused") <= MAX_ROWS
        assert rows(store, "history") <= history_bound(len(refusals))
        assert first_fault(store.db) is None
        store.close()
        again = a_store(Path(folder))
        assert again.refusals() == len(refusals)
        again.close()


def test_one_peer_that_knocks_for_ever_is_one_row_whatever_its_port(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    for port in range(1000):
        store.refuse(f"ipv4:10.0.0.1:{port}", "/fedstudy.v1.Federation/Offer", "no identity")
    store.write_refusals()
    ((peer, count, ordered),) = store.db.execute("SELECT peer, count, first <= last FROM refused")
    assert (peer, count, ordered) == ("10.0.0.1", 1000, 1)
    assert rows(store, "history") == 1 + 4  # created; the 1st, 10th, 100th and 1000th
    store.close()


def test_a_site_is_still_named_after_strangers_have_filled_the_table(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    store.refuse("site/north", "Submit 0001-000-train-north", "too long")
    for n in range(2 * MAX_ROWS):
        store.refuse(f"stranger-{n}", "/fedstudy.v1.Federation/Offer", "x" * 2 * MAX_TEXT)
    store.refuse("site/north", "Submit 0001-000-train-north", "too long")
    store.write_refusals()
    (count,) = store.db.execute("SELECT count FROM refused WHERE peer = 'site/north'").fetchone()
    assert count == 2
    assert store.figures().refusals == {"Submit": 2, "Offer": 2 * MAX_ROWS}
    store.close()


@pytest.fixture
def flooded(tmp_path: Path) -> Iterator[tuple[Store, Clock, list[str]]]:
    """A store, its clock, and the transactions that it has made."""
    clock, commits = Clock(), list[str]()
    store = Store(tmp_path, plan=b"{}", digest="sha256:1", clock=clock)
    store.db.set_trace_callback(lambda said: commits.append(said) if said == "COMMIT" else None)
    yield store, clock, commits
    store.close()


def test_a_flood_costs_one_transaction_a_second(flooded: Any, tmp_path: Path) -> None:
    store, clock, commits = flooded
    for second in range(3):
        clock.now = 1.5 * second
        for port in range(1000):
            store.refuse(f"ipv4:10.0.0.1:{port}", "/fedstudy.v1.Federation/Offer", "no identity")
    assert len(commits) == 3
    again = a_store(tmp_path)  # as after a kill: all but those of the last second
    assert again.refusals() == 2001
    again.close()
    assert store.refusals() == 3000
    assert rows(store, "history") == 1 + 4


def test_the_first_refusal_after_a_quiet_time_is_on_disk_at_once(flooded: Any, tmp_path: Path) -> None:
    store, clock, _ = flooded
    store.refuse("site/north", "Submit 0001-000-train-north", "too long")
    clock.now = 60.0
    store.refuse("site/north", "Submit 0002-000-train-north", "too long")
    again = a_store(tmp_path)
    assert again.figures().refusals == {"Submit": 2}
    again.close()


def test_a_flood_of_strangers_is_written_in_large_pieces(flooded: Any) -> None:
    store, _, commits = flooded
    for n in range(10 * MAX_ROWS):
        store.refuse(f"stranger-{n}", "/fedstudy.v1.Federation/Offer", "no")
    assert len(commits) <= 12
    assert store.refusals() == 10 * MAX_ROWS


def test_refusals_go_with_the_next_step_of_the_study(flooded: Any, tmp_path: Path) -> None:
    store, _, commits = flooded
    for _ in range(10):
        store.refuse("site/north", "Submit 0001-000-train-north", "too long")
    store.commit(State())
    assert len(commits) == 2
    again = a_store(tmp_path)
    assert again.refusals() == 10
    again.close()


@pytest.mark.parametrize(
    ("peer", "group"),
    [
        ("ipv4:10.0.0.1:4711", "10.0.0.1"),
        ("ipv6:[2001:db8::1:2]:4711", "2001:db8::/64"),
        ("ipv6:%5B2001:db8::3%5D:1", "2001:db8::/64"),
        ("ipv4:10.0.0.999:1", "ipv4:10.0.0.999:1"),
        ("site/north", "site/north"),
        ("", ""),
    ],
)
def test_an_address_is_grouped_by_its_network(peer: str, group: str) -> None:
    assert peer_group(peer) == group
