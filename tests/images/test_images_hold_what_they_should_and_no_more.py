"""Each image holds its own half of fedstudy; neither holds tools to build with, and nothing in them can raise its rights."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from .conftest import Run

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]  # the first test makes the images
IMAGES = ("fedstudy", "fedstudy-trainer")
TOOLS = ("gcc", "cc", "g++", "ld", "as", "make", "pip", "pip3", "git", "curl", "wget")


def test_the_slim_image_imports_aggregator_agent_and_operator_without_torch(run: Run) -> None:
    code = (
        "import importlib.util as u, fedstudy.aggregator.__main__, fedstudy.agent.__main__, fedstudy_operator.cli;"
        "print([n for n in ('torch', 'monai', 'fedstudy_trainer') if u.find_spec(n)])"
    )
    done = run("fedstudy", ["python3", "-c", code])
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_trainers_image_imports_torch_and_monai_without_the_control_plane(run: Run) -> None:
    code = (
        "import importlib.util as u, torch, monai.networks.nets, fedstudy_trainer.session;"
        "torch.nn.Conv3d(1, 2, 3)(torch.zeros(1, 1, 4, 4, 4)).sum().backward();"
        "print([n for n in ('kopf', 'kubernetes', 'fedstudy_operator') if u.find_spec(n)])"
    )
    done = run("fedstudy-trainer", ["python3", "-c", code])
    assert (done.returncode, done.stdout.strip().splitlines()[-1:]) == (0, ["[]"]), done.stderr


@pytest.mark.parametrize("image", IMAGES)
def test_nothing_in_an_image_is_setuid_or_setgid(image: str, roots: dict[str, Path]) -> None:
    raised = [
        path
        for path in _files(roots[image])
        if path.lstat().st_mode & (stat.S_ISUID | stat.S_ISGID) and not path.is_symlink()
    ]
    assert raised == []


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_no_build_tools(image: str, roots: dict[str, Path]) -> None:
    names = {path.name for path in _files(roots[image]) if path.parent.name in ("bin", "sbin")}
    assert names & set(TOOLS) == set()
    assert "python3" in names  # that the walk saw the commands at all


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_names_its_user_its_version_and_no_entry_point(
    image: str, configs: dict[str, dict[str, dict[str, object]]]
) -> None:
    config = configs[image]["config"]
    assert config["User"] == "65532:65532"
    assert "Entrypoint" not in config
    labels = config["Labels"]
    assert isinstance(labels, dict)
    assert labels["org.opencontainers.image.title"] == image
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def _files(root: Path) -> list[Path]:
    return [Path(folder, name) for folder, _, names in os.walk(root) for name in names]
