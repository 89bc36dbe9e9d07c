"""Bytes of encoded tensor files, and that others read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedstudy import tensors
from fedstudy.encodings import encode
from fedstudy.plan import Encoding, Transfer
from fedstudy.tensors import Array, TensorFile


def network() -> dict[str, Array]:
    """Tensors like those of a small image network: 1.2 million numbers, most in a few tensors, many of 16 to 256."""
    random = np.random.default_rng(3)
    shapes = {f"block.{k}.conv.weight": (64, 64, 3, 3, 3) for k in range(10)}
    shapes |= {f"block.{k}.{part}": (64,) for k in range(10) for part in ("bias", "norm.weight", "norm.bias")}
    shapes |= {"head.weight": (2, 64), "head.bias": (2,)}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("encoding", "least", "most"),
    [(Encoding.BFLOAT16, 0.5, 0.502), (Encoding.FLOAT16, 0.5, 0.502), (Encoding.INT8, 0.25, 0.27)],
)
@pytest.mark.parametrize("delta", [False, True])
def test_the_file_has_the_stated_share_of_the_bytes(
    encoding: Encoding, least: float, most: float, delta: bool
) -> None:
    model = network()
    whole = len(tensors.encode(model))
    small = len(tensors.encode(encode(model, model, Transfer(encoding=encoding, delta=delta))))
    assert least <= small / whole <= most


def test_a_bfloat16_file_is_read_here_and_by_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    model = {"x": np.array([1.0, -2.5, 3.140625], np.float32)}
    tensors.write(tmp_path / "x", encode(model, {}, Transfer(encoding=Encoding.BFLOAT16)))
    with TensorFile(tmp_path / "x") as file:
        assert file.tensors["x"].dtype == "BF16"
        assert file.array("x").dtype == np.uint16
    theirs = safetensors.load_file(tmp_path / "x")["x"]
    assert str(theirs.dtype) == "torch.bfloat16"
    assert (theirs.float().numpy() == model["x"]).all()
