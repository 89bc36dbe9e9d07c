"""The room of `make fuzz`, without its engine: its seeds are accepted, and its mutations are near enough to be accepted at times."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from fuzz import study
from fuzz.mutate import mutated
from fuzz.targets import TARGETS, TYPED, messages, run, seeds, seeds_of_calls


def accepted(data: bytes) -> bool:
    try:
        TARGETS[data[0]].read(data[1:])
    except TYPED:
        return False
    return True


def test_a_reader_takes_each_of_its_seeds() -> None:
    refused = [
        seed for seed in seeds() if TARGETS[seed[0]].form not in ("bytes", "calls") and not accepted(seed)
    ]
    assert refused == []


@pytest.mark.parametrize("kind", [study.Hub, study.Hospital])
async def test_an_upload_among_the_seeds_is_accepted(kind: type[study.Hub] | type[study.Hospital]) -> None:
    side = kind()
    await side.start()
    try:
        [upload] = [s for s in seeds_of_calls(kind.instruction) if study.METHODS[s[0]].name == "Submit"]
        await side.call(study.METHODS[upload[0]], list(messages(upload[1:])))
        assert side.accepted()
    finally:
        side.close()


def test_mutated_seeds_are_refused_or_taken_by_every_reader() -> None:
    chance = random.Random(7)

    def raw(data: bytes, most: int) -> bytes:
        changed = bytearray(data or b"\0")
        changed[chance.randrange(len(changed))] = chance.randrange(256)
        return bytes(changed[:most])

    taken: Counter[int] = Counter()
    for seed in seeds():
        for number in range(3):
            neighbour = mutated(seed, 16384, number, raw)
            if TARGETS[neighbour[0] % len(TARGETS)].form == "calls":
                run(neighbour)
            elif accepted(bytes([neighbour[0] % len(TARGETS)]) + neighbour[1:]):
                taken[neighbour[0] % len(TARGETS)] += 1
    assert len(taken) >= 7
