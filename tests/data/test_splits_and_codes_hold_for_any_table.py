"""Properties of stratified splits, of one-hot codes, and of suppressed counts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedstudy_trainer.data.splits import SHARES, Split, stratified_split
from fedstudy_trainer.data.suppression import suppressed
from fedstudy_trainer.data.table import class_parser, one_hot

STRATA = st.lists(st.integers(-1, 3), min_size=1, max_size=120)


def names(n: int) -> list[str]:
    return [f"p{i}" for i in range(n)]


@given(strata=STRATA, seed=st.integers(0, 2**31 - 1), shuffle=st.randoms(use_true_random=False))
def test_a_split_depends_on_names_strata_and_seed_only(strata: list[int], seed: int, shuffle: object) -> None:
    people = list(zip(names(len(strata)), strata, strict=True))
    first = dict(zip(names(len(strata)), stratified_split(*columns(people), seed), strict=True))
    shuffle.shuffle(people)  # type: ignore[attr-defined]
    again = stratified_split(*columns(people), seed)
    assert {name: split for (name, _), split in zip(people, again, strict=True)} == first


def columns(people: list[tuple[str, int]]) -> tuple[list[str], np.ndarray]:
    return [name for name, _ in people], np.array([stratum for _, stratum in people])


@given(strata=STRATA, seed=st.integers(0, 100))
def test_shares_hold_over_all_cases_and_in_every_stratum(strata: list[int], seed: int) -> None:
    splits = stratified_split(names(len(strata)), np.array(strata), seed)
    for split in Split:
        assert abs(splits.count(split) - SHARES[split] * len(strata)) < 1.01
        for stratum in set(strata):
            inside = [s for s, k in zip(splits, strata, strict=True) if k == stratum]
            assert abs(inside.count(split) - SHARES[split] * len(inside)) < 2.01


@given(strata=STRATA, seed=st.integers(0, 100), unknown=st.integers(0, 20))
def test_cases_without_a_target_do_not_disturb_the_others(strata: list[int], seed: int, unknown: int) -> None:
    known = [max(s, 0) for s in strata]
    alone = stratified_split(names(len(known)), np.array(known), seed)
    joined = stratified_split(names(len(known) + unknown), np.array(known + [-1] * unknown), seed)
    assert joined[: len(known)] == alone


def test_a_sites_only_case_is_for_training() -> None:
    assert stratified_split(["p"], np.array([1]), 0) == [Split.TRAINING]


def test_another_seed_gives_another_split() -> None:
    first, second = (stratified_split(names(40), np.zeros(40, dtype=np.int64), seed) for seed in (0, 1))
    assert first != second


@given(codes=st.lists(st.one_of(st.integers(0, 4).map(float), st.just(float("nan"))), max_size=30))
def test_one_hot_codes_leave_out_the_reference_and_keep_what_is_missing(codes: list[float]) -> None:
    expanded = one_hot(np.array(codes, dtype=np.float64), 5)
    assert expanded.shape == (len(codes), 4)
    for code, row in zip(codes, expanded, strict=True):
        if np.isnan(code):
            assert np.isnan(row).all()
        else:
            assert row.tolist() == [float(k == code) for k in range(1, 5)]


@given(classes=st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=6, unique=True))
def test_every_class_is_read_as_itself(classes: list[str]) -> None:
    parse = class_parser(classes)
    assert [parse(name) for name in classes] == list(range(len(classes)))


def test_case_is_ignored_only_where_it_does_not_matter() -> None:
    parse = class_parser(["a", "A", "b"])
    assert [parse(cell) for cell in ("a", "A", "B", "c")] == [0, 1, 2, None]


@given(parts=st.lists(st.integers(0, 50), min_size=2, max_size=6), least=st.integers(1, 20))
def test_no_hidden_count_can_be_computed_from_the_whole(parts: list[int], least: int) -> None:
    shown = suppressed(parts, least)
    hidden = [part for part, count in zip(parts, shown, strict=True) if count is None]
    assert len(hidden) != 1
    assert all(count is None or count == part for part, count in zip(parts, shown, strict=True))
    assert all(count is None or count >= least for count in shown)
