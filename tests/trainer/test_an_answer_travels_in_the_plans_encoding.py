"""A trainer answers TRAIN in the encoding of its plan, and nothing else in it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_for_trainer import dataset, first_model, network, parameters, plan, rows, same_bits, site

from fedstudy import tensors
from fedstudy.agent.disclosure import check
from fedstudy.encodings import encode
from fedstudy.plan import Encoding, StudyPlan, Transfer
from fedstudy.wire import federation_pb2 as pb
from fedstudy_trainer.learner import train
from fedstudy_trainer.settings import Settings
from fedstudy_trainer.work import Worker


def worker(folder: Path, study: StudyPlan) -> Worker:
    """A site's work on 24 patients, without a session around it."""
    config = dataset(folder, study, rows(24))
    (folder / "dataset.json").write_text(config.model_dump_json(by_alias=True))
    named = {"TLS": "none", "UPSTREAM": "none:1", "SITE": "a"}
    folders = {"CONFIG": folder, "DATA": folder, "SCRATCH": folder / "scratch"}
    environment = {f"FEDSTUDY_{name}": str(value) for name, value in (named | folders).items()}
    return Worker(Settings.from_environment(environment), study)


def do(hospital: Worker, kind: pb.Kind, inputs: dict[str, Path], study: StudyPlan) -> dict[str, Any]:
    given = parameters(study, split="validation")
    done = hospital.do(
        "0001-000-train-a", kind, inputs, given, progress=lambda _: None, stop=threading.Event()
    )
    return dict(done.tensors)


@pytest.mark.parametrize(
    "transfer", [Transfer(encoding=encoding, delta=delta) for encoding in Encoding for delta in (False, True)]
)
def test_train_is_encoded_and_passes_the_agent(tmp_path: Path, transfer: Transfer) -> None:
    document = transfer.model_dump(mode="json", by_alias=True)
    study = plan(network="MLP", federation={"transfer": document})
    folder = tmp_path / "hospital"
    hospital = worker(folder, study)
    local = site(tmp_path / "same", study, rows(24))
    start = first_model(study, local)
    tensors.write(tmp_path / "model", start)
    sent = do(hospital, pb.Kind.TRAIN, {"model": tmp_path / "model"}, study)
    trained = train(network(study, start), local, study, parameters(study)).tensors
    assert same_bits(sent, encode(trained, start, transfer))
    tensors.write(tmp_path / "answer", sent)
    check(tmp_path / "answer", pb.Instruction(id="i", kind=pb.TRAIN, round=1), study, tmp_path / "model")
    for kind in (pb.Kind.STATISTICS, pb.Kind.EVALUATE):
        exact = do(hospital, kind, {"model": tmp_path / "model"}, study)
        assert {array.dtype for array in exact.values()} <= {np.dtype("<f8"), np.dtype("<i8")}
