"""Sites with one class, no event, one patient, missing images or values; and a training that diverges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_for_trainer import IDH, TIMES, first_model, network, parameters, plan, rows, same_bits, site

from fedstudy.errors import DataError
from fedstudy_trainer.learner import TrainingDiverged, evaluate, predict, train

COX = {"loss": "StratifiedCox"}
ODD: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "one class": ({"target": IDH}, {"idh": ["mutant"]}),
    "one class, balanced": ({"target": IDH, "task": {"classWeighting": "SiteBalance"}}, {"idh": ["mutant"]}),
    "no event, Cox": ({"target": TIMES, "task": COX}, {"dead": [0]}),
    "no event, hazard": ({"target": TIMES}, {"dead": [0]}),
    "zero variance": ({"target": IDH}, {"age": [50]}),
    "a covariate that is nowhere": ({"target": IDH}, {"age": [""]}),
}


@pytest.mark.parametrize("patients", [1, 9])
@pytest.mark.parametrize("name", ODD)
def test_its_answer_and_its_evaluation_are_finite(tmp_path: Path, name: str, patients: int) -> None:
    changes, columns = ODD[name]
    study = plan(**changes, training={"batchSize": 4})
    odd = rows(patients) | {column: value * patients for column, value in columns.items()}
    data = site(tmp_path / "odd", study, odd)
    start = first_model(study, data, site(tmp_path / "other", study, rows(30, seed=1)))
    model = network(study, start)
    trained = train(model, data, study, parameters(study, epochs=3))
    assert all(np.isfinite(array).all() for array in trained.tensors.values())
    assert np.isfinite(trained.contribution.loss)
    assert trained.contribution.samples == patients
    for split in ("training", "validation"):
        assert all(np.isfinite(a).all() for a in evaluate(model, data, study, split).values())


def test_without_events_a_cox_model_stays_where_it_is(tmp_path: Path) -> None:
    study = plan(target=TIMES, task=COX)
    data = site(tmp_path / "odd", study, rows(9) | {"dead": [0] * 9})
    start = first_model(study, site(tmp_path / "other", study, rows(30, seed=1)))
    trained = train(network(study, start), data, study, parameters(study, epochs=3))
    assert same_bits(dict(trained.tensors), {"weight": start["weight"]})


def test_a_missing_sequence_is_a_zero_channel_that_the_head_is_told_of(tmp_path: Path) -> None:
    study = plan(images=["t1", "flair"], network="SmallCNN", arguments={"width": 4, "depth": 2})
    columns = rows(6) | {"flair": ["yes", "no"] * 3, "t1": ["yes"] * 6}
    data = site(tmp_path, study, columns)
    cases = data.cases("training")
    assert cases.images is not None
    np.testing.assert_array_equal(cases.presence[:, 1], [1, 0] * 3)
    start = first_model(study, data)
    told = predict(network(study, start), data, study, "training")
    flag = start["head.0.weight"].shape[1] - 2 * 3 - 1  # features, presence t1, presence flair, 2P covariates
    deaf = {**start, "head.0.weight": start["head.0.weight"].copy()}
    deaf["head.0.weight"][:, flag] = 0
    untold = predict(network(study, deaf), data, study, "training")
    assert np.abs(told - untold)[0::2].max() > 0
    np.testing.assert_array_equal(told[1::2], untold[1::2])
    trained = train(network(study, start), data, study, parameters(study))
    assert all(np.isfinite(array).all() for array in trained.tensors.values())


def test_a_training_that_diverges_names_its_step_and_sends_nothing(tmp_path: Path) -> None:
    study = plan(
        covariates=[{"name": "age"}],
        target=TIMES,
        network="MLP",
        training={"optimizer": {"learningRate": 1e30}},
    )
    data = site(tmp_path, study, rows(20))
    with pytest.raises(TrainingDiverged, match="step") as raised:
        train(network(study, first_model(study, data)), data, study, parameters(study, epochs=5))
    assert "learningRate" in raised.value.remedy


def test_a_site_without_training_cases_is_told_so(tmp_path: Path) -> None:
    study = plan()
    data = site(tmp_path, study, rows(4) | {"split": ["test"] * 4})
    with pytest.raises(DataError, match="no training case"):
        train(
            network(study, first_model(study, site(tmp_path / "b", study, rows(9)))),
            data,
            study,
            parameters(study),
        )
