"""Instructions on the wire: one site's part of a stage, and the word that one is no longer wanted."""

from __future__ import annotations

import json
import math

from fedstudy.aggregator.state import Kind, Stage
from fedstudy.wire import federation_pb2 as pb

_KINDS = {
    Kind.STATISTICS: pb.STATISTICS,
    Kind.INITIALISE: pb.INITIALISE,
    Kind.TRAIN: pb.TRAIN,
    Kind.EVALUATE: pb.EVALUATE,
    Kind.FINISH: pb.FINISH,
}


def instruction(stage: Stage, site: str, now: float) -> pb.Instruction:
    """What a site is told of a stage; but for the time left, always the same."""
    return pb.Instruction(
        id=stage.instruction(site),
        kind=_KINDS[stage.kind],
        round=stage.round,
        inputs=[
            pb.Input(name=name, digest=blob.digest, size=blob.size)
            for name, blob in sorted(stage.inputs.items())
        ],
        parameters=json.dumps(dict(stage.parameters.get(site, {})), sort_keys=True).encode(),
        deadline_seconds=max(1, math.ceil(stage.deadline - now)),
    )


def cancellation(instruction_id: str) -> pb.Instruction:
    """That an instruction is no longer wanted."""
    return pb.Instruction(
        id=f"cancel-{instruction_id}",
        kind=pb.CANCEL,
        parameters=json.dumps({"instruction": instruction_id}).encode(),
    )
