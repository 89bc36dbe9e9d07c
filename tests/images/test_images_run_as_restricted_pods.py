"""Every command of the images starts as nobody in particular with a root that cannot be written, and the trainer's numbers are the host's."""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Run

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]  # the first test makes the images


@pytest.mark.parametrize(
    ("image", "command"),
    [
        ("fedstudy", ["fedstudy", "--help"]),
        ("fedstudy", ["kubectl-fedstudy", "--help"]),
        ("fedstudy-trainer", ["fedstudy-trainer", "--help"]),
        ("fedstudy-trainer", ["fedstudy-trainer", "preflight", "--help"]),
    ],
)
def test_a_command_tells_its_usage(image: str, command: list[str], run: Run) -> None:
    done = run(image, command)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


@pytest.mark.parametrize(
    ("image", "command"),
    [
        ("fedstudy", "fedstudy-aggregator"),
        ("fedstudy", "fedstudy-agent"),
        ("fedstudy-trainer", "fedstudy-trainer"),
    ],
)
def test_a_process_without_settings_says_what_it_lacks(image: str, command: str, run: Run) -> None:
    done = run(image, [command, "preflight"] if image == "fedstudy-trainer" else [command])
    assert done.returncode != 0
    assert "FEDSTUDY_" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("image", ["fedstudy", "fedstudy-trainer"])
def test_the_root_is_read_only_and_the_user_has_a_name(image: str, run: Run) -> None:
    code = "import getpass, os; print(getpass.getuser(), os.getuid()); open('/opt/x', 'w')"
    done = run(image, ["python3", "-c", code])
    assert done.stdout.split() == ["fedstudy", "65532"]
    assert "Read-only file system" in done.stderr


def test_every_module_of_ours_has_byte_code_that_no_date_makes_stale(roots: dict[str, Path]) -> None:
    sources = [path for root in roots.values() for path in (root / "opt/package").rglob("*.py")]
    assert sources
    for source in sources:
        code = source.parent / "__pycache__" / f"{source.stem}.cpython-311.pyc"
        # Bit 0: checked by hash and not by date; bit 1, the check of the source, is off.
        assert code.read_bytes()[4:8] == (1).to_bytes(4, "little"), source


def test_the_trainers_torch_has_the_hosts_kernels(roots: dict[str, Path]) -> None:
    """A model trained in the test cluster can so be compared with one trained here, bit for bit."""
    host = Path(str(importlib.metadata.distribution("torch").locate_file("torch/lib/libtorch_cpu.so")))
    site = roots["fedstudy-trainer"] / "opt/fedstudy/lib/python3.11/site-packages"
    assert _digest(site / "torch/lib/libtorch_cpu.so") == _digest(host)


def test_an_images_dependencies_are_the_pinned_ones(roots: dict[str, Path]) -> None:
    for image, names in {
        "fedstudy": ["numpy", "grpcio", "kopf"],
        "fedstudy-trainer": ["numpy", "grpcio", "monai", "scipy", "nibabel"],
    }.items():
        site = roots[image] / "opt/fedstudy/lib/python3.11/site-packages"
        for name in names:
            assert (site / f"{name}-{importlib.metadata.version(name)}.dist-info").is_dir(), name


def test_a_hospitals_phantom_patients_are_those_of_the_host(run: Run, tmp_path: Path) -> None:
    words = ["--profile", "demo", "--seed", "3", "--scale", "0.05", "--site"]
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir(mode=0o777)
    there.chmod(0o777)
    site = _a_site(run)
    subprocess.run([sys.executable, "-m", "fedstudy_trainer", "phantom", str(here), *words, site], check=True)
    done = run("fedstudy-trainer", ["fedstudy-trainer", "phantom", "/data", *words, site], data=there)
    assert done.returncode == 0, done.stderr
    assert _tree(there) == _tree(here)
    assert len(_tree(here)) > 10


def _a_site(run: Run) -> str:
    done = run(
        "fedstudy-trainer",
        ["python3", "-c", "from fedstudy_trainer.data.phantom import PROFILES as p; print(p['demo'].sites[0].name)"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): _digest(path) for path in folder.rglob("*") if path.is_file()
    }


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
