"""Coverage-guided fuzzing of what reads bytes off the wire: tensor headers, frames, documents. For `make fuzz`.

Run: ``python fuzz/bytes_of_tensors_and_frames.py -max_total_time=3600``. Whatever is raised but the typed refusals is a finding; atheris
writes the bytes to a file named crash-….
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["fedstudy"]):
    from google.protobuf.message import DecodeError
    from pydantic import ValidationError

    from fedstudy import tensors
    from fedstudy.agent.consent import checked_offer
    from fedstudy.agent.relay import parameters
    from fedstudy.errors import FedstudyError
    from fedstudy.wire import federation_pb2 as pb
    from fedstudy.wire import framing
    from fedstudy.wire.admin import DECISION, STATE

TARGETS = (
    lambda data: tensors.parse_header(data, len(data)),
    # The length field made right, so that what follows is reached.
    lambda data: tensors.parse_header(len(data).to_bytes(8, "little") + data, 8 + len(data)),
    framing.read_chunk,
    framing.read_submit,
    lambda data: checked_offer(data, "sha256:" + "0" * 64),
    lambda data: parameters(pb.Instruction(parameters=data)),
    DECISION.validate_json,
    STATE.validate_json,
)


def one(data: bytes) -> None:
    """The first byte chooses what reads the others."""
    if not data:
        return
    try:
        TARGETS[data[0] % len(TARGETS)](data[1:])  # type: ignore[no-untyped-call]
    except (FedstudyError, ValidationError, DecodeError):
        return


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
