"""What is fuzzed: every reader of bytes off the wire, each with what must hold of whatever it accepts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from pydantic import ValidationError

from fedstudy import encodings, tensors
from fedstudy.agent import disclosure
from fedstudy.agent.consent import checked_offer
from fedstudy.agent.own_metrics import own_metrics
from fedstudy.agent.relay import parameters
from fedstudy.aggregator.algorithms import algorithm
from fedstudy.aggregator.state import Kind, Stage
from fedstudy.aggregator.verify import verify
from fedstudy.errors import FedstudyError
from fedstudy.identity import Identity
from fedstudy.plan import Encoding
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire import framing
from fedstudy.wire.admin import DECISION, STATE, DatasetProfile
from fedstudy.wire.credentials import certificate_facts, certificate_identity, requested_key
from fuzz import examples
from fuzz.study import METHODS, Hospital, Hub, Served, room

TYPED = (FedstudyError, ValidationError, DecodeError)
"""Refusals; anything else that is raised is a finding."""


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        form: what its bytes are, for the mutator: `tensors`, `json`, `calls` (a method's number, then messages), `bytes`.
        seeds: right inputs.
    """

    read: Callable[[bytes], Any]
    form: str
    seeds: Callable[[], list[bytes]]


_folder = room()
_model, _file = _folder / "model", _folder / "file"
tensors.write(_model, examples.MODEL)
_plan = examples.plan_of()
_algorithm = algorithm(_plan)


def tensor_file(data: bytes) -> None:
    """Open a file and touch all that it holds."""
    _file.write_bytes(data)
    with tensors.TensorFile(_file) as file:
        for name in file:
            array = file.array(name)
            assert array.nbytes <= len(data)
            block = file.block(name, 0, array.size)
            assert block.tobytes() == array.tobytes()
        json.dumps(file.metadata).encode()
        again = tensors.encode({n: _written(file, n) for n in file}, file.metadata)
    assert tensors.parse_header(again, len(again))[1].keys() == file.tensors.keys()


def _written(file: tensors.TensorFile, name: str) -> Any:
    array = file.array(name)
    return array.view(tensors.BFLOAT16) if file.tensors[name].dtype == "BF16" else array


def answer(data: bytes) -> None:
    """An answer as the agent checks it, then as the aggregator does: what passes the one may be refused by the other."""
    kind = (Kind.STATISTICS, Kind.INITIALISE, Kind.TRAIN, Kind.EVALUATE)[data[0] % 4]
    number = pb.Kind.Value(kind.name)
    _file.write_bytes(data[1:])
    stage = Stage(
        kind=kind, round=1, index=0, sites=(examples.SITES[0],), parameters={}, inputs={}, opened=0,
        deadline=1, split="validation",
    )  # fmt: skip
    disclosure.check(_file, pb.Instruction(id="i", kind=pb.Kind.Name(number)), _plan, _model)
    with np.errstate(all="ignore"):
        if kind is Kind.EVALUATE:
            own_metrics(_file, _plan, _model)
        verify(_file, stage, _plan, _algorithm, _model, [1.0, 1.0, 1.0])


def frame(data: bytes) -> None:
    """A frame is what protobuf says that it is, or refused by both."""
    for read, kind in ((framing.read_chunk, pb.Chunk), (framing.read_submit, pb.SubmitRequest)):
        try:
            expected: Any = kind.FromString(data)
        except DecodeError:
            expected = None
        try:
            found = read(data)
        except DecodeError:
            assert expected is None
            continue
        assert expected is not None and bytes(found.data) == expected.data
        assert kind is pb.Chunk or found.WhichOneof("part") == expected.WhichOneof("part")


def offer(data: bytes) -> None:
    """A plan that is taken says the same once more."""
    offered = checked_offer(data, "sha256:" + hashlib.sha256(data).hexdigest())
    assert type(offered.plan).parse(offered.plan.canonical()) == offered.plan
    algorithm(offered.plan)


def decoded(data: bytes) -> None:
    """Any bits decode to numbers."""
    if len(data) < 3:
        return
    encoding, start, noise = list(Encoding)[data[0] % 4], data[1], np.frombuffer(data[2:], np.uint8)
    dtypes = {Encoding.FLOAT32: "<f4", Encoding.BFLOAT16: "<u2", Encoding.FLOAT16: "<f2", Encoding.INT8: "i1"}

    def read(name: str, first: int, number: int) -> Any:
        dtype = np.dtype("<f4" if name.endswith(".scale") else dtypes[encoding])
        return np.resize(noise, (first + number) * dtype.itemsize).view(dtype)[first:].copy()

    with np.errstate(all="ignore"):
        assert encodings.decode(read, "w", start, len(noise), encoding).dtype == np.float32


def certificate(data: bytes) -> None:
    """Requests, certificates and names in them."""
    text = data.decode(errors="replace")
    for read in (requested_key, certificate_facts, certificate_identity, Identity.parse):
        try:
            read(text)
        except FedstudyError as error:
            str(error).encode(errors="backslashreplace")


def document(data: bytes) -> None:
    """Documents of the Admin service, and a preflight's."""
    for read in (DECISION.validate_json, STATE.validate_json, DatasetProfile.model_validate_json):
        try:
            said = read(data)
        except ValidationError:
            continue
        said.model_dump_json(by_alias=True).encode()


def calls(kind: type[Hub] | type[Hospital]) -> Callable[[bytes], None]:
    """A call to a process: the method's number, then the messages, each behind its length in two bytes."""
    served = Served(kind)

    def call(data: bytes) -> None:
        if data:
            served.call(data[0], list(messages(data[1:])) or [b""])

    return call


def messages(data: bytes) -> Iterator[bytes]:
    """Bytes as messages; the last may be shorter than it says."""
    while len(data) >= 2:
        size = int.from_bytes(data[:2], "little")
        yield data[2 : 2 + size]
        data = data[2 + size :]


def as_call(number: int, said: list[bytes]) -> bytes:
    """The other way."""
    return bytes([number]) + b"".join(len(m).to_bytes(2, "little") + m for m in said)


def seeds_of_calls(instruction: str) -> list[bytes]:
    """A right call of every method, and of some in each form that it has."""
    made = examples.requests(instruction)
    seeds = [as_call(number, made[method.name]) for number, method in enumerate(METHODS)]
    decide = next(number for number, method in enumerate(METHODS) if method.name == "Decide")
    report = next(number for number, method in enumerate(METHODS) if method.name == "Report")
    failure = pb.ReportRequest(failure=pb.Failure(instruction_id=instruction, code="x", final=True))
    preflight = pb.ReportRequest(preflight=pb.Preflight(profile=examples.documents()[-1]))
    return [
        *seeds,
        *(as_call(decide, [pb.DecideRequest(document=d).SerializeToString()]) for d in examples.documents()),
        *(as_call(report, [m.SerializeToString()]) for m in (failure, preflight)),
    ]


def _seeds_of_frames() -> list[bytes]:
    return [framing.chunk_frame(b"x" * 300).message, *examples.upload("i", b"y" * 300)]


def _seeds_of_certificates() -> list[bytes]:
    uri = Identity.parse("spiffe://hub.example/study/study-1/site/hospital-a").uri()
    return [examples.requests("i")["Enroll"][0][3:], uri.encode()]


TARGETS = (
    Target(tensor_file, "tensors", examples.tensor_files),
    Target(
        answer,
        "answer",
        lambda: [bytes([kind - 1]) + data for kind, data in examples.answers().items()],
    ),
    Target(frame, "bytes", _seeds_of_frames),
    Target(offer, "plan", lambda: [examples.plan_of().canonical(), examples.survival_plan().canonical()]),
    Target(
        lambda data: parameters(pb.Instruction(parameters=data)),
        "json",
        lambda: [b'{"epochs":2,"learning_rate":0.1,"seed":7}'],
    ),
    Target(document, "json", examples.documents),
    Target(decoded, "bytes", lambda: [bytes([n, 3]) + bytes(range(64)) for n in range(4)]),
    Target(certificate, "bytes", _seeds_of_certificates),
    Target(calls(Hub), "calls", lambda: seeds_of_calls(Hub.instruction)),
    Target(calls(Hospital), "calls", lambda: seeds_of_calls(Hospital.instruction)),
)


def seeds() -> list[bytes]:
    """All targets' right inputs."""
    return [bytes([number]) + seed for number, target in enumerate(TARGETS) for seed in target.seeds()]


def run(data: bytes) -> None:
    """The first byte says what reads the others."""
    if not data:
        return
    try:
        TARGETS[data[0] % len(TARGETS)].read(data[1:] or b"\0")
    except TYPED:
        return
