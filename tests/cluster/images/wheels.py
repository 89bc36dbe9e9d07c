"""The folder of wheels that the test images are installed from, fetched on this machine because a build inside has no network."""

from __future__ import annotations

import shutil
import sys
import tomllib
from pathlib import Path

from tests.cluster.images import torch_stub
from tests.cluster.images.base import PYTHON
from tests.cluster.images.tool import REPOSITORY, ImageError, cache, key, run

_BUILDERS = ("pip", "hatchling")
"""What the build itself needs: the base image has no pip, and our own wheel is made with hatchling."""


def wheels() -> Path:
    """The folder, made where it is missing: everything at the pinned versions, torch as the test stub."""
    if sys.version_info[:2] != PYTHON:
        python = ".".join(map(str, PYTHON))
        raise ImageError(
            f"The test images have Python {python}; run this with Python {python}, whose torch and wheels they take."
        )
    pins = REPOSITORY / "constraints" / f"py{PYTHON[0]}{PYTHON[1]}.txt"
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = sorted(
        {
            *project["dependencies"],
            *(need for extra in ("operator", "trainer") for need in project["optional-dependencies"][extra]),
        }
    )
    folder = cache() / f"wheels-{key([pins, *wanted, torch_stub.version(), Path(torch_stub.__file__)])}"
    if not folder.is_dir():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        torch_stub.write_wheel(part)
        stub = f"torch=={torch_stub.version()}"
        run(
            [
                sys.executable,
                "-m",
                "pip",
                "wheel",
                "--quiet",
                "--wheel-dir",
                part,
                "--find-links",
                part,
                "--constraint",
                pins,
                *wanted,
                stub,
                *_BUILDERS,
            ]
        )
        part.rename(folder)
    return folder
