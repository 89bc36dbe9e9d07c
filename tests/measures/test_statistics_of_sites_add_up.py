"""The fold over sites is plain addition, and refuses what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from fedstudy.errors import UpdateError
from fedstudy.measures import add, total


def test_equal_names_and_shapes_are_added_elementwise() -> None:
    a = {"x": np.array([1, 2]), "y": np.array([[0.5]])}
    b = {"x": np.array([3, 4]), "y": np.array([[1.0]])}
    summed = total([a, b, a])
    assert summed["x"].tolist() == [5, 8]
    assert summed["y"].tolist() == [[2.0]]
    assert a["x"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "other",
    [
        {"z": np.array([1])},
        {"x": np.array([1, 2])},
        {"x": np.array([1.0])},
        {"x": np.array([1]), "y": np.array([1])},
    ],
)
def test_another_name_shape_or_dtype_is_refused(other: dict[str, np.ndarray]) -> None:
    with pytest.raises(UpdateError) as caught:
        add({"x": np.array([1])}, other)
    assert caught.value.remedy


def test_a_dtype_that_is_not_exact_on_the_wire_is_refused() -> None:
    half = {"x": np.array([1.0], dtype=np.float32)}
    with pytest.raises(UpdateError):
        add(half, half)


def test_no_site_at_all_is_refused() -> None:
    with pytest.raises(UpdateError):
        total([])
