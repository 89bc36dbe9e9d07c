"""Deadlines by what a site took before: a slow site is waited for, one that hangs is not, a large one is not left out early."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from round_world import NAMES, World, rules

from fedstudy.aggregator.rounds import next_moment
from fedstudy.aggregator.state import (
    STATE,
    Alive,
    Closed,
    Connected,
    Disconnected,
    Kind,
    Restarted,
    RoundClosed,
    Stage,
    Suspended,
)

LONG, GRACE = 10_000.0, 60.0
SAMPLES = {"a": 30, "b": 30, "c": 30, "d": 10}
USUAL = {"a": 5.0, "b": 10.0, "c": 100.0, "d": 20.0}


def world(rounds: int = 6, **changes: object) -> World:
    made = World(rules(rounds=rounds, timeout=LONG, grace=GRACE, evaluate_every=100, **changes))
    made.start()
    return made


def stage(world: World) -> Stage:
    found = world.state.stage
    assert found is not None
    return found


def go_round(world: World, usual: dict[str, float] = USUAL, samples: dict[str, int] = SAMPLES) -> None:
    """One stage in which each site takes its usual time."""
    began = world.now
    for site, seconds in sorted(usual.items(), key=lambda item: item[1]):
        world.tick(began + seconds - world.now)
        if site in world.waiting():
            world.answer(site, samples[site])
    world.fold()


def to_round(world: World, number: int, **how: dict[str, int]) -> None:
    for _ in range(50):
        if stage(world).kind is Kind.TRAIN and stage(world).round == number:
            return
        go_round(world, **how)  # type: ignore[arg-type]
    raise AssertionError("the round does not come")


def answer_all_but(world: World, *silent: str) -> None:
    for site in NAMES:
        if site not in silent and site in world.waiting():
            world.answer(site, SAMPLES[site])


def test_one_that_hangs_is_waited_for_three_times_its_usual_and_once() -> None:
    w = world()
    to_round(w, 4)
    answer_all_but(w, "d")
    opened = stage(w).opened
    assert next_moment(w.rules, w.state, w.now) == opened + GRACE  # 3 x 20 s
    w.tick(GRACE - 1)
    assert w.closing is None
    w.tick(1)
    assert w.closing is not None and w.closing.missing == {"d": "NoAnswer"}
    assert w.state.message == "Closed without d. 10 % of the training cases are missing."
    w.fold()
    answer_all_but(w, "d")
    assert w.closing is not None and w.now == opened + GRACE  # asked, but not waited for again
    w.fold()
    w.send(Alive(w.now, "d"))
    answer_all_but(w, "d")
    assert w.closing is None  # it is back, and has its time again


def test_a_site_that_is_always_slow_is_never_left_out() -> None:
    w = world()
    slow = USUAL | {"d": 2000.0}
    for _ in range(50):
        if w.state.over:
            break
        go_round(w, slow)
    rounds = [e.sites for e in w.effects if isinstance(e, RoundClosed)]
    assert rounds == [NAMES] * 6
    assert not any(e.missing for e in w.effects if isinstance(e, Closed) and e.stage.kind is Kind.TRAIN)


def test_a_site_may_become_slower_little_by_little() -> None:
    w = world(rounds=12)
    number, seconds = 0, 40.0
    while not w.state.over:
        if stage(w).round != number:
            number, seconds = stage(w).round, seconds * 1.3
        go_round(w, USUAL | {"d": min(seconds, LONG - 1)})
    assert [e.sites for e in w.effects if isinstance(e, RoundClosed)] == [NAMES] * 12


def test_a_site_that_has_become_slower_for_good_is_left_out_once() -> None:
    w = world(rounds=8)
    to_round(w, 4)
    slower = USUAL | {"d": 2000.0}
    while not w.state.over:
        began, late = w.now, w.state.late
        w.send(Alive(began, "d"))
        go_round(w, slower)
        if w.state.late > late:  # it was still at the old work when the next stage opened
            w.tick(2000.0)
    rounds = [e.sites for e in w.effects if isinstance(e, RoundClosed)]
    assert rounds == [NAMES] * 3 + [("a", "b", "c")] + [NAMES] * 4


def test_a_large_site_is_waited_for_until_the_deadline() -> None:
    w = world()
    large = SAMPLES | {"d": 100}
    to_round(w, 4, samples=large)
    answer_all_but(w, "d")
    w.tick(LONG - 1)
    assert w.closing is None
    w.tick(1)
    assert w.closing is not None
    assert w.state.message == "Closed without d. 53 % of the training cases are missing."
    assert w.state.reason == "RoundTimedOut"


def test_a_required_site_and_the_quorum_come_before_the_expectation() -> None:
    w = world(min_sites=4)
    to_round(w, 4)
    answer_all_but(w, "d")
    w.tick(LONG - 1)
    assert w.closing is None and stage(w).overtime is False


def test_nothing_is_expected_of_a_site_that_answered_once() -> None:
    w = world()
    to_round(w, 2)
    answer_all_but(w, "d")
    w.tick(LONG - 1)
    assert w.closing is None


def test_the_time_that_the_aggregator_was_away_is_not_the_sites_fault() -> None:
    w = world()
    to_round(w, 4)
    answer_all_but(w, "d")
    w.now += 500.0
    w.send(Restarted(w.now))
    for site in NAMES:
        w.send(Connected(w.now, site))
    w.tick(GRACE - 1)
    assert w.closing is None
    before = w.state.durations
    w.answer("d", 10)
    assert w.state.durations == before  # a stage that was interrupted measures nothing
    assert w.closing is not None and not w.closing.missing


def test_one_that_comes_late_joins_at_the_next_round() -> None:
    w = world()
    to_round(w, 3)
    w.send(Disconnected(w.now, "d"))
    answer_all_but(w, "d")
    w.tick(GRACE)
    assert w.closing is not None and w.closing.missing == {"d": "Disconnected"}
    w.send(Connected(w.now, "d"))
    assert stage(w).closing and "d" not in w.waiting()
    w.fold()
    assert stage(w).sites == NAMES and "d" in w.waiting()


def test_a_ring_waits_for_each_until_the_deadline() -> None:
    w = world(schedule="ring")
    for _ in range(40):
        if stage(w).round == 4:
            break
        for site in w.waiting():
            w.tick(USUAL[site])
            w.answer(site, SAMPLES[site])
        w.fold()
    w.tick(LONG - 1)
    assert w.closing is None and stage(w).answers == {}


def test_durations_are_those_of_the_latest_stages_and_survive_being_stored() -> None:
    w = world(rounds=9)
    to_round(w, 9)
    took = w.state.durations[Kind.TRAIN]
    assert took == {site: (seconds,) * 5 for site, seconds in USUAL.items()}
    assert STATE.validate_json(STATE.dump_json(w.state)) == w.state
    w.send(Suspended(w.now, True))
    w.start("a", "b")
    assert set(w.state.durations[Kind.TRAIN]) == {"a", "b"}


@settings(deadline=None, max_examples=20)
@given(jump=st.floats(-1e6, -1.0))
def test_a_clock_that_is_set_back_breaks_nothing(jump: float) -> None:
    w = world()
    to_round(w, 3)
    w.now += jump
    w.run(until=None)
    assert w.state.over
    assert all(second >= 0 for took in w.state.durations[Kind.TRAIN].values() for second in took)


@pytest.mark.parametrize("took", [0.0, 1.0, 1e6])
def test_no_expectation_is_beyond_the_deadline_or_below_the_grace(took: float) -> None:
    w = world()
    to_round(w, 4)
    durations = {Kind.TRAIN: dict.fromkeys(NAMES, (took,) * 3)}
    moment = next_moment(w.rules, replace(w.state, durations=durations), stage(w).opened)
    assert moment == stage(w).opened + (LONG if took > LONG else GRACE)
