"""Determinism of a site's half."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from helpers_for_trainer import first_model, network, parameters, plan, rows, same_bits, site

from fedstudy.errors import PlanError
from fedstudy_trainer.learner import predict, train

FUSED: dict[str, Any] = {
    "images": ["t1", "flair"],
    "network": "SmallCNN",
    "arguments": {"width": 4, "depth": 2, "dropout": 0.3},
    "training": {"batchSize": 3, "localEpochs": 2},
}


def test_initial_weights_follow_from_the_seed_alone(tmp_path: Path) -> None:
    study = plan(network="MLP")
    data = site(tmp_path, study, rows(12))
    first = first_model(study, data)
    np.random.default_rng().random()
    assert same_bits(first, first_model(study, data))
    other = first_model(plan(network="MLP", training={"seed": 8}), data)
    assert not same_bits(first, other)


def test_a_round_with_dropout_and_shuffling_is_the_same_twice(tmp_path: Path) -> None:
    study = plan(**FUSED)
    data = site(tmp_path, study, rows(8))
    start = first_model(study, data)
    one, two, other = (
        train(network(study, start), data, study, parameters(study, seed=seed)).tensors for seed in (5, 5, 6)
    )
    assert same_bits(dict(one), dict(two))
    assert not same_bits(dict(one), dict(other))


def test_fedprox_without_a_penalty_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    answers = []
    for algorithm in ({"name": "FedAvg"}, *({"name": "FedProx", "parameters": {"mu": m}} for m in (0, 1))):
        study = plan(**FUSED, federation={"algorithm": algorithm})
        data = site(tmp_path, study, rows(8))
        start = first_model(study, data)
        answers.append(dict(train(network(study, start), data, study, parameters(study, epochs=3)).tensors))
    assert same_bits(answers[0], answers[1])
    assert not same_bits(answers[0], answers[2])
    moved = [
        sum(float(np.square(answer[n] - start[n]).sum()) for n in answer)
        for answer in (answers[0], answers[2])
    ]
    assert moved[1] < moved[0], "the penalty holds the weights near the shared model"


def test_a_negative_mu_is_refused_by_its_field(tmp_path: Path) -> None:
    study = plan(federation={"algorithm": {"name": "FedProx", "parameters": {"mu": -1}}})
    data = site(tmp_path, study, rows(8))
    try:
        train(network(study, first_model(study, data)), data, study, parameters(study))
    except PlanError as error:
        assert "federation.algorithm.parameters.mu" in error.message
    else:
        raise AssertionError("not refused")


def test_predictions_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    study = plan(**FUSED)
    data = site(tmp_path, study, rows(11))
    model = network(study, first_model(study, data))
    together = predict(model, data, study, "training")
    three = {name: column[:3] for name, column in rows(11).items()}
    alone = predict(model, site(tmp_path / "three", study, three), study, "training")
    np.testing.assert_allclose(together[:3], alone, atol=1e-5)
