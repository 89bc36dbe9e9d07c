"""Right bytes for the fuzzer to begin with: a plan, tensor files, messages. Made by our own code, so they never grow stale."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from fedstudy import tensors
from fedstudy.measures import classification_statistics, cohort_statistics
from fedstudy.plan import StudyPlan
from fedstudy.tensors import Array, Blob
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.admin import (
    AcceptEnrolment,
    AgentState,
    Approval,
    Configure,
    DatasetPolicy,
    DatasetProfile,
    RefuseEnrolment,
    SetSites,
    Suspend,
)
from fedstudy.wire.credentials import make_key_and_csr

SITES = ("hospital-a", "hospital-b", "hospital-c")


def plan_of(**federation: Any) -> StudyPlan:
    """A classification over two covariates; keywords go into `federation`."""
    document = {
        "study": "idh", "uid": "study-1", "purpose": "DUO:0000007",
        "task": {"type": "Classification", "covariates": [{"name": "age"}, {"name": "kps"}],
                 "target": {"label": "idh", "classes": ["wildtype", "mutant"]}},
        "model": {"network": {"name": "Linear"}}, "preprocessing": {}, "augmentation": {},
        "training": {"localEpochs": 2, "batchSize": 8, "optimizer": {"learningRate": 0.1, "decay": 0.5}, "seed": 7},
        "federation": {"rounds": 2, "minSites": 2, "roundTimeoutSeconds": 60, **federation}, "cohort": {},
    }  # fmt: skip
    return StudyPlan.model_validate(document)


def survival_plan() -> StudyPlan:
    """A discrete-time survival study, whose answers have other tensors."""
    document = plan_of(transfer={"encoding": "Int8"}).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    document["task"] = {
        "type": "Survival",
        "covariates": [{"name": "age"}, {"name": "grade", "categories": ["2", "3", "4"]}],
        "target": {"time": "months", "event": "dead"},
        "loss": "DiscreteHazard",
    }
    return StudyPlan.model_validate(document)


MODEL: Mapping[str, Array] = {
    "constant.covariate.mean": np.zeros(2, np.float32),
    "constant.covariate.scale": np.ones(2, np.float32),
    "weight": np.full((1, 4), 0.5, np.float32),
    "bias": np.zeros(1, np.float32),
}
UPDATE: Mapping[str, Array] = {
    "weight": np.ones((1, 4), np.float32),
    "bias": np.full(1, 0.25, np.float32),
}
LABELS = np.arange(6) % 2


def answers() -> dict[int, bytes]:
    """Kind → the file of a right answer of that kind."""
    cohort = cohort_statistics(np.linspace(0, 1, 12).reshape(6, 2), LABELS, 2)
    likely = np.stack([np.linspace(0.2, 0.8, 6), np.linspace(0.8, 0.2, 6)], axis=1)
    made: dict[int, Mapping[str, Array]] = {
        pb.STATISTICS: cohort,
        pb.INITIALISE: MODEL,
        pb.TRAIN: UPDATE,
        pb.EVALUATE: classification_statistics(likely, LABELS),
    }
    return {kind: tensors.encode(held) for kind, held in made.items()}


def tensor_files() -> list[bytes]:
    """Files with every dtype, with metadata, and with nothing in them."""
    every = {dtype.str: np.zeros((2, 3), dtype) for dtype in tensors._CODES if dtype is not tensors.BFLOAT16}
    return [
        tensors.encode({}),
        tensors.encode({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0)}, {"k": "v"}),
        tensors.encode(every | {"half": np.zeros(2, "<u2").view(tensors.BFLOAT16)}),
        *answers().values(),
    ]


def blob_of(data: bytes) -> Blob:
    """A file's name by content."""
    return Blob.of(data)


def upload(instruction: str, data: bytes, pieces: int = 2) -> list[bytes]:
    """The messages of an upload: header, then the bytes."""
    blob = blob_of(data)
    header = pb.SubmitHeader(
        instruction_id=instruction,
        digest=blob.digest,
        size=blob.size,
        contribution=pb.Contribution(samples=6, events=1, steps=3, seconds=1.5, loss=0.5),
    )
    step = -(-len(data) // pieces) or 1
    chunks = [pb.SubmitRequest(data=data[at : at + step]) for at in range(0, len(data), step)]
    return [m.SerializeToString() for m in (pb.SubmitRequest(header=header), *chunks)]


def documents() -> list[bytes]:
    """Decisions, states and a profile, as JSON."""
    profile = DatasetProfile(plan_digest="sha256:" + "0" * 64, fits=True, cases=6)
    made = (
        AcceptEnrolment(
            invitation="i", key_fingerprint="f", site=SITES[0], certificate_pem="c", authority_pem="a"
        ),
        RefuseEnrolment(invitation="i", key_fingerprint="f", reason="no"),
        SetSites(sites=list(SITES), required=[SITES[0]]),
        Suspend(suspend=True),
        Configure(policy=policy(), approval=Approval(mode="Automatic")),
        AgentState(profile=profile),
        profile,
    )
    return [one.model_dump_json(by_alias=True).encode() for one in made]


def policy() -> DatasetPolicy:
    """One that allows the plans here."""
    return DatasetPolicy(
        purposes=["DUO:0000007"],
        algorithms=["*"],
        networks=["*"],
        images=["*"],
        min_sites=1,
        require_secure_aggregation=False,
    )


def requests(instruction: str) -> dict[str, list[bytes]]:
    """Method name → the right messages of one call."""
    statistics = answers()[pb.STATISTICS]
    blob, csr = blob_of(statistics), make_key_and_csr()[1]
    digest = str(plan_of().digest())
    progress = pb.Progress(instruction_id=instruction, samples_done=1, samples_total=6, loss=0.5)
    made: dict[str, list[Any]] = {
        "Enroll": [pb.EnrollRequest(csr_pem=csr, protocol="1")],
        "Renew": [pb.EnrollRequest(csr_pem=csr, protocol="1")],
        "Offer": [pb.OfferRequest()],
        "Follow": [pb.FollowRequest(plan_digest=digest)],
        "Fetch": [pb.FetchRequest(digest=blob.digest, offset=1)],
        "Inquire": [pb.InquireRequest(instruction_id=instruction, digest=blob.digest, size=blob.size)],
        "Report": [pb.ReportRequest(progress=progress)],
        "Watch": [pb.WatchRequest()],
        "Decide": [pb.DecideRequest(document=documents()[3])],
        "Export": [pb.ExportRequest(name="results.json", offset=1)],
    }
    told = {name: [bytes(m.SerializeToString()) for m in messages] for name, messages in made.items()}
    return told | {"Submit": upload(instruction, statistics)}


@cache
def words() -> list[bytes]:
    """What a random byte would not hit on: names of fields, kinds, dtypes."""
    fields = [field for document in documents() for field in json.loads(document)]
    fields += [*plan_of().model_dump(by_alias=True), "__metadata__", "data_offsets", "dtype", "shape"]
    return sorted(
        {
            text.encode()
            for text in [*fields, *tensors._DTYPES, "blake3:", "sha256:", "[0,0]", "1e999", "\\ud800"]
        }
    )
