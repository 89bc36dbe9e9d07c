"""Every RPC of an aggregator under arbitrary messages: a typed status within its deadline, and the study goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from attacked import ATTACKER, TYPED, Attacked, attacked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from messages import raw

from fedstudy.errors import UpdateError
from fedstudy.identity import Role
from fedstudy.wire import federation_pb2 as pb

TIER = settings(
    derandomize=True, database=None, deadline=None, max_examples=50, suppress_health_check=list(HealthCheck)
)
FEDERATION, ADMIN = pb.DESCRIPTOR.services_by_name["Federation"], pb.DESCRIPTOR.services_by_name["Admin"]
UNARY = [
    m for m in (*FEDERATION.methods, *ADMIN.methods) if not m.client_streaming and not m.server_streaming
]
STREAMS = [m for m in (*FEDERATION.methods, *ADMIN.methods) if m.server_streaming]
WAIT = 0.4
"""Seconds after which a call that may rightly wait for ever (Enroll, Follow, Watch) is given up."""


def role_for(method: Any) -> tuple[Role, str]:
    if method.containing_service.name == "Admin":
        return Role.OPERATOR, ""
    return (Role.INVITATION, "inv-attacker") if method.name == "Enroll" else (Role.SITE, ATTACKER)


def path_of(method: Any) -> str:
    return f"/fedstudy.v1.{method.containing_service.name}/{method.name}"


@pytest.mark.parametrize("method", UNARY, ids=lambda m: m.name)
def test_a_unary_call(tmp_path: Path, method: Any) -> None:
    with attacked(tmp_path) as study:
        caller = study.caller(*role_for(method))
        study.asked(kind="train")
        known = st.sampled_from([SITES_AS_THEY_ARE]) if method.name == "Decide" else st.nothing()

        @TIER
        @given(raw(method.input_type) | known)
        def attack(message: bytes) -> None:
            if method.name == "Decide" and changes_the_study(message):
                return  # a right decision is carried out
            study.status(lambda: caller.unary(path_of(method), message))

        attack()
        study.completes()


@pytest.mark.parametrize("method", STREAMS, ids=lambda m: m.name)
def test_a_call_that_streams_its_answer(tmp_path: Path, method: Any) -> None:
    with attacked(tmp_path) as study:
        caller = study.caller(*role_for(method))
        study.asked(kind="train")

        @settings(TIER, max_examples=25)
        @given(raw(method.input_type))
        def attack(message: bytes) -> None:
            study.now(answered_or_waits(caller.serve(path_of(method), message, most=1, seconds=WAIT)))

        attack()
        reconnected(study)
        study.completes()


SITES_AS_THEY_ARE = pb.DecideRequest(
    document=b'{"decision":"SetSites","sites":["hospital-a","hospital-b","hospital-c","hospital-a"],"required":[]}'
).SerializeToString()


def changes_the_study(message: bytes) -> bool:
    return b'"Suspend"' in message


def reconnected(study: Attacked) -> None:
    """A stream of the attacker that ended took its presence with it."""

    async def body() -> None:
        study.sites.connect(ATTACKER)

    study.now(body())


async def answered_or_waits(call: Any) -> None:
    """As `outcome`, but the end of the deadline is right too: the answer had begun, or is still to come."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        code = error.code().name
        trailers: dict[Any, Any] = dict(error.trailing_metadata() or ())  # type: ignore[arg-type]
        assert code == "DEADLINE_EXCEEDED" or (code in TYPED and "fedstudy-error" in trailers), (
            code,
            error.details(),
        )


ARRAYS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-300, 1e30, -1e30, 1e300, -1e308, 1.7e308])


@pytest.mark.parametrize("kind", ["statistics", "initialise", "train", "evaluate"])
def test_answers_of_the_right_form_with_any_numbers_never_end_the_aggregator(
    tmp_path: Path, kind: str
) -> None:
    """Finite, but absurd: the study may fail with a reason, and the operator can read it."""
    import numpy as np

    from fedstudy import tensors

    folders = iter(range(1000))

    @settings(TIER, max_examples=6)
    @given(st.integers(0, 2**32), ARRAYS, st.sampled_from([0, 1, 2**40]), st.sampled_from([0, 10, 2**40]))
    def attack(seed: int, value: float, samples: int, events: int) -> None:
        folder = tmp_path / str(next(folders))
        folder.mkdir()
        with attacked(folder, rounds=2, evaluateEvery=1, roundTimeoutSeconds=3600) as study:
            instruction, data, _ = study.asked(kind=kind)
            path = folder / "answer"
            path.write_bytes(data)
            draw = np.random.default_rng(seed)
            changed = {
                name: np.where(draw.random(a.shape) < 0.5, a, absurd(a, value)).astype(a.dtype)
                for name, a in tensors.read(path).items()
            }

            async def submit() -> None:
                blob = study.engine.blobs.add_tensors(changed, {"instruction": instruction})
                said = pb.Contribution(
                    samples=samples, events=events, seconds=1e308, loss=-1e308, steps=2**40
                )
                header = pb.SubmitHeader(
                    instruction_id=instruction, digest=blob.digest, size=blob.size, contribution=said
                )
                try:
                    await study.engine.accept(ATTACKER, header)
                except UpdateError as error:
                    assert error.message

            study.now(submit())
            study.ends()

    attack()


def absurd(array: Any, value: float) -> Any:
    import numpy as np

    if array.dtype.kind == "f":
        limit = float(np.finfo(array.dtype).max)
        return np.full(array.shape, min(max(value, -limit), limit), array.dtype)
    limit = int(np.iinfo(array.dtype).max)
    return np.full(array.shape, int(min(max(value, -limit), limit - 2**11)), array.dtype)
