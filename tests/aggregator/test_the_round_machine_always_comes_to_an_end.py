"""The pure round machine under random events: it never opens two stages, keeps its quorum, and always ends."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from round_world import NAMES, TIMEOUT, World, rules

from fedstudy.aggregator.rounds import next_moment, open_stage
from fedstudy.aggregator.state import (
    Closed,
    Connected,
    Disconnected,
    Kind,
    Opened,
    Restarted,
    RoundClosed,
    SitesSet,
    State,
    Suspended,
)
from fedstudy.plan import StopWhen
from fedstudy.wire.admin import Phase


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(), schedule=st.sampled_from(["star", "ring"]), min_sites=st.integers(1, 4),
    required=st.sampled_from([(), ("b",)]),
)  # fmt: skip
def test_whatever_happens_the_study_ends_when_all_are_well_again(
    data: st.DataObject, schedule: str, min_sites: int, required: tuple[str, ...]
) -> None:
    world = World(rules(schedule=schedule, min_sites=min_sites))
    world.start(required=required)
    for _ in range(data.draw(st.integers(0, 60))):
        site = data.draw(st.sampled_from(NAMES))
        match data.draw(
            st.sampled_from(["answer", "answer", "fold", "tick", "in", "out", "fail", "again", "pause"])
        ):
            case "answer" if site in world.waiting():
                world.answer(site)
            case "fold":
                world.fold()
            case "tick":
                world.tick(data.draw(st.sampled_from([1.0, TIMEOUT / 2, TIMEOUT])))
            case "in":
                world.send(Connected(world.now, site))
            case "out":
                world.send(Disconnected(world.now, site))
            case "fail" if site in world.waiting():
                world.fail(site)
            case "again":
                world.closing = None
                world.send(Restarted(world.now))
            case "pause":
                world.send(Suspended(world.now, data.draw(st.booleans())))
            case _:
                pass
    world.send(Suspended(world.now, False))
    for site in NAMES:
        world.send(Connected(world.now, site))
    world.run()
    assert world.state.phase in (Phase.COMPLETE, Phase.FAILED)
    if world.state.phase is Phase.FAILED:
        assert (
            world.state.reason in ("QuorumMissing", "InitialiseFailed") and "DataError" in world.state.message
        )
    assert all(open_stage(world.state, s) is not None for s in NAMES)


@settings(max_examples=30, deadline=None)
@given(order=st.randoms(use_true_random=False), schedule=st.sampled_from(["star", "ring"]))
def test_the_order_of_answers_does_not_matter(order: object, schedule: str) -> None:
    def final(shuffled: bool) -> State:
        world = World(rules(schedule=schedule))
        world.start()
        while not world.state.over:
            ready = world.waiting()
            if world.closing is not None:
                world.fold()
            else:
                world.answer(order.choice(ready) if shuffled else ready[0])  # type: ignore[attr-defined]
        return world.state

    assert final(True).model == final(False).model


def test_the_ring_visits_the_sites_one_after_the_other() -> None:
    world = World(rules(schedule="ring"))
    world.start()
    world.run()
    train = [e.stage for e in world.effects if isinstance(e, Opened) and e.stage.kind is Kind.TRAIN]
    assert [s.sites for s in train] == [(n,) for n in NAMES] * 2
    models = [s.inputs["model"] for s in train]
    assert len(set(models)) == len(models)
    assert [s.id for s in train[:2]] == ["0001-000-train", "0001-001-train"]


def test_the_ring_skips_a_site_that_does_not_answer() -> None:
    world = World(rules(schedule="ring"))
    world.start()
    world.run(until=Kind.TRAIN)
    world.send(Disconnected(world.now, "b"))
    world.run(answering="acd")
    closed = [e for e in world.effects if isinstance(e, RoundClosed)]
    assert world.state.phase is Phase.COMPLETE
    assert [e.sites for e in closed] == [("a", "c", "d")] * 2


def test_a_lost_site_costs_one_deadline_once_and_is_readmitted() -> None:
    world = World(rules(rounds=3))
    world.start()
    world.run(until=Kind.TRAIN)
    began = world.now
    world.send(Disconnected(world.now, "d"))
    world.run(answering="abc", until=Kind.EVALUATE)
    assert world.now - began == TIMEOUT
    missing = [e.missing for e in world.effects if isinstance(e, Closed) and e.stage.kind is Kind.TRAIN]
    assert missing == [{"d": "Disconnected"}]
    world.run(answering="abc", until=Kind.TRAIN)
    assert world.state.stage is not None and world.state.stage.sites == ("a", "b", "c")
    world.run(answering="abc", until=Kind.EVALUATE)
    assert world.now - began == TIMEOUT
    world.send(Connected(world.now, "d"))
    world.run(until=Kind.TRAIN)
    world.run()
    rounds = [e.sites for e in world.effects if isinstance(e, RoundClosed)]
    assert rounds == [("a", "b", "c"), ("a", "b", "c"), NAMES]


@pytest.mark.parametrize("restart", [False, True])
def test_a_site_gone_for_longer_than_the_grace_is_waited_for_no_more(restart: bool) -> None:
    world = World(rules(rounds=2, grace=30.0))
    world.start()
    world.run(until=Kind.TRAIN)
    for site in "ab":
        world.answer(site)
    world.send(Disconnected(world.now, "d"))
    if restart:
        world.send(Restarted(world.now))
        for site in "abc":
            world.send(Connected(world.now, site))
    world.tick(30.0)
    assert world.closing is None  # c is connected: however slow, it has until the deadline
    assert world.waiting() == ["c", "d"]
    world.answer("c")
    assert world.closing is not None
    assert world.closing.missing == {"d": "Disconnected"}
    world.send(Connected(world.now, "d"))
    world.run()
    assert [e.sites for e in world.effects if isinstance(e, RoundClosed)] == [("a", "b", "c"), NAMES]


def test_the_grace_begins_anew_with_each_loss_and_ends_nothing_without_a_quorum() -> None:
    world = World(rules(rounds=1, grace=30.0, min_sites=4))
    world.start()
    world.run(until=Kind.TRAIN)
    for site in "abc":
        world.answer(site)
    world.send(Disconnected(world.now, "d"))
    world.tick(29.0)
    assert next_moment(world.rules, world.state, world.now) == world.now + 1
    world.send(Connected(world.now, "d"))
    world.send(Disconnected(world.now, "d"))
    world.tick(29.0)
    world.tick(2.0)
    assert world.closing is None
    stage = world.state.stage
    assert stage is not None
    assert next_moment(world.rules, world.state, world.now) == stage.deadline  # no moment that has passed
    world.send(Connected(world.now, "d"))
    world.run()
    assert world.state.phase is Phase.COMPLETE


def test_a_connected_but_silent_site_is_asked_but_not_waited_for_again() -> None:
    world = World(rules(rounds=3))
    world.start()
    world.run(until=Kind.TRAIN)
    began = world.now
    world.run(answering="abc")
    assert world.state.phase is Phase.COMPLETE
    assert world.now - began == TIMEOUT
    assert any(e.missing.get("d") == "NoAnswer" for e in world.effects if isinstance(e, Closed))


def test_without_a_quorum_the_study_waits_and_says_so() -> None:
    world = World(rules(min_sites=4))
    world.send(SitesSet(world.now, NAMES, ()))
    assert (world.state.phase, world.state.reason) == (Phase.WAITING_FOR_SITES, "SitesMissing")
    world.start()
    world.run(until=Kind.TRAIN)
    world.send(Disconnected(world.now, "d"))
    for site in "abc":
        world.answer(site)
    world.tick(TIMEOUT)
    assert (world.state.phase, world.state.reason) == (Phase.TRAINING, "QuorumMissing")
    assert "3 answers" in world.state.message
    world.tick(10 * TIMEOUT)
    assert world.state.reason == "QuorumMissing"
    world.send(Connected(world.now, "d"))
    world.run()
    assert world.state.phase is Phase.COMPLETE


def test_a_required_site_is_waited_for() -> None:
    world = World(rules(min_sites=1))
    world.start(required=["c"])
    world.run(until=Kind.TRAIN)
    world.send(Disconnected(world.now, "c"))
    for site in "abd":
        world.answer(site)
    world.tick(TIMEOUT)
    assert world.state.reason == "QuorumMissing" and "Required and missing: c" in world.state.message


def test_too_few_samples_are_no_quorum() -> None:
    world = World(rules(min_sites=1, min_samples=35))
    world.start()
    for site in "abc":
        world.answer(site)
    world.tick(TIMEOUT)
    assert world.state.reason == "QuorumMissing"
    world.answer("d")
    assert world.closing is not None


def test_when_all_have_failed_the_study_fails_with_their_reasons() -> None:
    world = World(rules())
    world.start()
    for site in "abc":
        world.fail(site)
    assert not world.state.over
    world.answer("d")
    assert world.state.phase is Phase.FAILED
    assert "a: Failed: DataError (no such column)" in world.state.message
    assert all(open_stage(world.state, s).kind is Kind.FINISH for s in NAMES)  # type: ignore[union-attr]


def test_the_initial_model_comes_from_the_first_site_that_answers() -> None:
    world = World(rules())
    world.start()
    world.run(until=Kind.INITIALISE)
    assert world.waiting() == ["a"]
    world.fail("a")
    assert world.waiting() == ["b"]
    world.tick(TIMEOUT)
    assert world.waiting() == ["c"]
    assert world.state.stage is not None and world.state.stage.id == "0000-003-initialise"
    world.run(answering="cd", until=Kind.TRAIN)
    assert world.state.model is not None


def test_a_removed_site_is_not_waited_for() -> None:
    world = World(rules())
    world.start()
    world.run(until=Kind.TRAIN)
    for site in "abc":
        world.answer(site)
    world.send(SitesSet(world.now, ("a", "b", "c"), ()))
    assert world.closing is not None
    world.fold()
    assert open_stage(world.state, "d") is None


def test_a_suspended_study_stops_after_what_is_under_way() -> None:
    world = World(rules())
    world.start()
    world.run(until=Kind.TRAIN)
    world.send(Suspended(world.now, True))
    for site in NAMES:
        world.answer(site)
    world.fold()
    assert world.state.phase is Phase.SUSPENDED and world.state.stage is None
    world.send(Suspended(world.now, False))
    world.run()
    assert world.state.phase is Phase.COMPLETE


@pytest.mark.parametrize(("metrics", "rounds"), [([0.6, 0.7, 0.69, 0.68], 4), ([0.6, 0.9], 2)])
def test_stop_when_counts_patience_and_looks_at_the_mark(metrics: list[float], rounds: int) -> None:
    world = World(rules(rounds=9, stop_when=StopWhen(metric="auc", reaches=0.9, patience=2)))
    world.start()
    left = iter(metrics)
    while not world.state.over:
        if world.closing is not None:
            validation = world.closing.kind is Kind.EVALUATE and world.closing.split == "validation"
            world.fold(next(left) if validation else None)
        else:
            world.answer(world.waiting()[0])
    assert world.state.round == rounds


@pytest.mark.parametrize("late", ["", "b"])
def test_weights_are_waited_for_when_every_site_is_lost_and_come_from_the_first_that_returns(
    late: str,
) -> None:
    """An uplink of the hub that is away for longer than the grace must not send the machine round and round."""
    world = World(rules(grace=30.0))
    world.start()
    world.run(until=Kind.INITIALISE)
    for site in NAMES:
        if site != late:
            world.send(Disconnected(world.now, site))
    world.tick(31.0)
    if late:
        world.send(Disconnected(world.now, late))
    for _ in range(5):
        world.tick(TIMEOUT)
        assert world.state.stage is not None and world.state.stage.kind is Kind.INITIALISE
    for site in NAMES:
        world.send(Connected(world.now, site))
    world.run()
    assert world.state.phase is Phase.COMPLETE
