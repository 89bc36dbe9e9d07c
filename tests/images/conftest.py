"""What the tests of the images share: the images, and a container of one with a read-only root under the uid of the pods."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.cluster.images import tool
from tests.cluster.images.build import OWN, build_images
from tests.required import lacking

Run = Callable[..., "subprocess.CompletedProcess[str]"]
NEEDED = ("buildah", "debootstrap", "busybox", "runc", "gcc", "nm", "readelf", "make")


@pytest.fixture(scope="session")
def images() -> dict[str, Path]:
    """The archives of the test cluster's images."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        lacking(
            f"images are made by root with {', '.join(NEEDED)}; lacking here: {', '.join(missing) or 'root'}"
        )
    return build_images()


@pytest.fixture(scope="session")
def roots(images: dict[str, Path]) -> Iterator[dict[str, Path]]:
    """The root file system of each of our images, mounted."""
    containers = {name: tool.buildah("from", "--pull-never", image).strip() for name, image in OWN.items()}
    try:
        yield {name: Path(tool.buildah("mount", container).strip()) for name, container in containers.items()}
    finally:
        for container in containers.values():
            tool.buildah("umount", container)
            tool.buildah("rm", container)


@pytest.fixture(scope="session")
def configs(images: dict[str, Path]) -> dict[str, dict[str, object]]:
    """The configuration of each of our images, as a container runtime reads it."""
    return {
        name: json.loads(tool.buildah("inspect", "--type", "image", image))["OCIv1"]
        for name, image in OWN.items()
    }


@pytest.fixture
def run(roots: dict[str, Path], configs: dict[str, dict[str, object]], tmp_path: Path) -> Run:
    """Run a command in an image as a restricted pod would: uid 65532, no capabilities, read-only root, /tmp in memory, no network."""

    def start(
        image: str, command: Sequence[str], data: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        config = configs[image]["config"]
        assert isinstance(config, dict)
        bundle = tmp_path / f"bundle-{len(list(tmp_path.iterdir()))}"
        bundle.mkdir()
        (bundle / "config.json").write_text(
            json.dumps(specification(roots[image], command, config["Env"], data))
        )
        name = f"fedstudy-images-{os.getpid()}-{bundle.name}"
        words = ["runc", "--root", str(bundle / "state"), "run", "--bundle", str(bundle), name]
        return subprocess.run(words, text=True, capture_output=True, timeout=240, check=False)

    return start


def specification(
    root: Path, command: Sequence[str], env: Sequence[str], data: Path | None
) -> dict[str, object]:
    """An OCI runtime specification without more than the container needs."""
    mounts: list[dict[str, object]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "mode=1777"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=1777"]},
    ]
    if data is not None:
        mounts.append(
            {"destination": "/data", "type": "bind", "source": str(data), "options": ["bind", "rw"]}
        )
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(root), "readonly": True},
        "process": {
            "user": {"uid": 65532, "gid": 65532},
            "args": list(command),
            "env": [*env, "OMP_NUM_THREADS=1"],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": {
                kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
            },
        },
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")],
            "rootfsPropagation": "private",
        },
    }
