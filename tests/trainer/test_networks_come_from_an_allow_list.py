"""Every network that a plan may name works on volumes, and nothing else gets in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_for_trainer import CPU, TIMES, first_model, plan, rows, same_bits, site
from torch import nn

from fedstudy.errors import PlanError, UpdateError
from fedstudy_trainer.learner import network_on
from fedstudy_trainer.networks import build, load_state, network_names
from fedstudy_trainer.networks.determinism import SlicePool, make_deterministic
from fedstudy_trainer.networks.state import weights

TABULAR = ("Linear", "MLP")
SMALL = ("DenseNet121", "ResNet10", "SEResNet50", "EfficientNetBN", "SmallCNN")
LARGE = tuple(name for name in network_names() if name not in (*TABULAR, *SMALL))


def works(name: str) -> None:
    study = plan(images=["t1", "t2"], network=name, size=32)
    network = build(study)
    images, presence = torch.randn(1, 2, 32, 32, 32), torch.tensor([[1.0, 0.0]])
    outputs = network(images, presence, torch.tensor([[50.0, float("nan"), 1.0]]))
    assert outputs.shape == (1, 1) and bool(torch.isfinite(outputs).all())
    outputs.sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in network.parameters())
    assert all(array.dtype == np.float32 for array in weights(network).values())
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())


@pytest.mark.parametrize("name", SMALL)
def test_a_network_of_images_gives_an_answer_and_a_gradient_for_one_case(name: str) -> None:
    works(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_a_large_network_of_images_gives_an_answer_and_a_gradient_for_one_case(name: str) -> None:
    works(name)


@pytest.mark.parametrize("name", TABULAR)
@pytest.mark.parametrize(
    ("target", "task", "outputs"),
    [
        ({"label": "idh", "classes": ["a", "b"]}, {}, 1),
        ({"label": "idh", "classes": ["a", "b", "c"]}, {}, 3),
        (TIMES, {"intervals": 5}, 5),
        (TIMES, {"loss": "StratifiedCox"}, 1),
    ],
)
def test_a_network_of_covariates_gives_what_the_task_asks_for(
    name: str, target: dict[str, Any], task: dict[str, Any], outputs: int
) -> None:
    network = build(plan(target=target, task=task, network=name))
    assert network(None, None, torch.full((4, 3), float("nan"))).shape == (4, outputs)
    bias = {n for n in weights(network) if n.endswith("bias")}
    if task.get("loss") == "StratifiedCox" and name == "Linear":
        assert not bias


def test_small_cnn_is_small() -> None:
    network = build(plan(images=["t1", "t1gd", "t2", "flair"], network="SmallCNN", size=32))
    assert 100_000 < sum(p.numel() for p in network.parameters()) < 350_000


def test_the_state_has_the_names_of_the_contract(tmp_path: Path) -> None:
    linear = plan()
    state = first_model(linear, site(tmp_path / "a", linear, rows(20)))
    assert {name: array.shape for name, array in state.items()} == {
        "constant.covariate.mean": (3,),
        "constant.covariate.scale": (3,),
        "constant.class.weight": (2,),
        "weight": (1, 6),
        "bias": (1,),
    }
    assert {array.dtype for array in state.values()} == {np.dtype(np.float32)}
    hazard = plan(target=TIMES, task={"intervals": 5})
    state = first_model(hazard, site(tmp_path / "b", hazard, rows(20)))
    assert state["constant.time.cuts"].shape == (4,)
    assert "constant.class.weight" not in state


def test_raw_covariates_are_standardised_imputed_and_flagged(tmp_path: Path) -> None:
    study = plan(covariates=[{"name": "age"}])
    columns = rows(5) | {"age": [40, 50, "", 60, 70]}
    state = first_model(study, site(tmp_path, study, columns))
    assert state["constant.covariate.mean"] == pytest.approx([55])
    network = network_on(study, state, CPU)
    inputs = network.standardised(
        torch.tensor([[55.0], [float("nan")], [55 + state["constant.covariate.scale"][0]]])
    )
    np.testing.assert_allclose(inputs.numpy(), [[0, 0], [0, 1], [1, 0]], atol=1e-6)


def test_a_loaded_state_comes_back_bit_for_bit_and_a_foreign_one_is_refused(tmp_path: Path) -> None:
    study = plan(network="MLP")
    state = first_model(study, site(tmp_path, study, rows(9)))
    network = network_on(study, state, CPU)
    assert same_bits(weights(network), {n: a for n, a in state.items() if not n.startswith("constant.")})
    for wrong, message in (
        ({n: a for n, a in state.items() if n != "layers.0.bias"}, r"layers\.0\.bias"),
        (state | {"layers.0.bias": np.zeros(5, np.float32)}, r"layers\.0\.bias"),
        (state | {"layers.0.bias": np.full(32, np.nan, np.float32)}, "not finite"),
    ):
        with pytest.raises(UpdateError, match=message):
            load_state(network, wrong)


@pytest.mark.parametrize(
    ("network", "arguments", "field"),
    [
        ("Exec", {}, "model.network.name"),
        ("SmallCNN", {"spatial_dims": 2}, "model.network.arguments.spatial_dims"),
        ("SmallCNN", {"width": 0}, "model.network.arguments.width"),
        ("SmallCNN", {"width": True}, "model.network.arguments.width"),
        ("SmallCNN", {"width": 2.5}, "model.network.arguments.width"),
        ("SmallCNN", {"dropout": 1}, "model.network.arguments.dropout"),
        ("DenseNet121", {}, "preprocessing.size"),
        ("EfficientNetBN", {"model_name": "b9"}, "model.network.arguments.model_name"),
    ],
)
def test_what_a_network_does_not_take_is_refused_by_its_field(
    network: str, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(PlanError, match=re.escape(field)):
        build(plan(images=["t1"], network=network, arguments=arguments))


@pytest.mark.parametrize("hidden", [[], [0], "32", [8, 1.5]])
def test_lists_of_widths_are_checked(hidden: Any) -> None:
    with pytest.raises(PlanError, match=r"model\.network\.arguments\.hidden"):
        build(plan(network="MLP", arguments={"hidden": hidden}))


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool3d(3, stride=2, padding=1),
        nn.MaxPool3d(3, stride=2, ceil_mode=True),
        nn.AvgPool3d(2, stride=2),
    ],
)
@pytest.mark.parametrize("side", [7, 8])
def test_deterministic_pooling_is_pooling(pool: nn.Module, side: int) -> None:
    one = torch.randn(2, 3, side, side, side, dtype=torch.float64, requires_grad=True)
    two = one.detach().clone().requires_grad_()
    a, b = pool(one), SlicePool(pool)(two)  # type: ignore[arg-type]
    weight = torch.randn_like(a)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(one.grad, two.grad)


@pytest.mark.parametrize("name", ["DenseNet121", "ResNet10", "SEResNet50", "EfficientNetBN"])
def test_a_network_made_deterministic_is_the_same_function(name: str) -> None:
    network = build(plan(images=["t1"], covariates=[], network=name, size=32)).eval()
    images, presence = torch.randn(1, 1, 32, 32, 32), torch.ones(1, 1)
    with torch.no_grad():
        before = network(images, presence, None)
        make_deterministic(network)
        after = network(images, presence, None)
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-4)
    kinds = (nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveAvgPool3d)
    assert not any(isinstance(module, kinds) for module in network.modules())
