"""Every image that the test cluster runs, as archives in the cache: made anew only when what they are made of has changed."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.images import base
from tests.cluster.images.tool import REPOSITORY, alone, archive, buildah_command, cache, key, run
from tests.cluster.images.wheels import wheels

TAG = "test"
OWN = {name: f"localhost/{name}:{TAG}" for name in ("fedstudy", "fedstudy-trainer")}
"""Our images, by target of the Containerfile."""
_SOURCES = (
    "federation",
    "operator/fedstudy_operator",
    "trainer-image",
    "constraints",
    "pyproject.toml",
    "README.md",
    ".containerignore",
    "Makefile",
)


def build_images(force: bool = False) -> dict[str, Path]:
    """Archives (docker-archive) by name: pause, busybox, fedstudy and fedstudy-trainer.

    Args:
        force: make our own two again even where nothing has changed.

    Raises:
        ImageError: a tool is missing or a step failed.
    """
    with alone():
        made = {"pause": base.pause(), "busybox": base.busybox()}
        targets = {name: cache() / f"{name}.tar" for name in OWN}
        note = cache() / "fedstudy.key"
        stamp = key([*(REPOSITORY / path for path in _SOURCES), wheels().name, base.base()])
        if force or not (
            note.is_file() and note.read_text() == stamp and all(map(Path.is_file, targets.values()))
        ):
            note.unlink(missing_ok=True)
            _make()
            for name, target in targets.items():
                archive(OWN[name], target)
            note.write_text(stamp)
    return {**made, **targets}


def _make() -> None:
    """`make images` as a hospital without internet would call it."""
    settings = {
        "ENGINE": " ".join(buildah_command()), "BASE": base.base(), "WHEELS": str(wheels()), "REGISTRY": "localhost", "TAG": TAG,
        "BUILD_FLAGS": "--pull-never",
    }  # fmt: skip
    run(["make", "images", *(f"{name}={value}" for name, value in settings.items())])
