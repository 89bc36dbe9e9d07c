"""Golden files: what each set of values renders to, so that a change of a template is seen in review. FEDSTUDY_GOLDEN=write writes them anew."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.charts.conftest import CHARTS, SETS, Render

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", SETS)
def test_values_render_as_before(render: Render, name: str) -> None:
    chart, values = SETS[name]
    objects = [obj for obj in render(chart, values) if obj["kind"] != "CustomResourceDefinition"]
    text = yaml.safe_dump_all(objects, sort_keys=True, width=120)
    file = GOLDEN / f"{name}.yaml"
    if os.environ.get("FEDSTUDY_GOLDEN") == "write":
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8"), (
        "if it is meant: FEDSTUDY_GOLDEN=write pytest tests/charts"
    )


def test_every_golden_file_has_its_values() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(SETS)


@pytest.mark.parametrize("chart", CHARTS)
def test_helm_finds_no_fault(helm: Path, charts: Path, chart: str) -> None:
    command = [str(helm), "lint", "--strict", "--kube-version", "1.34.0", str(charts / chart)]
    done = subprocess.run(command, text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("chart", CHARTS)
def test_an_older_kubernetes_is_refused(helm: Path, charts: Path, chart: str) -> None:
    command = [str(helm), "template", str(charts / chart), "--kube-version", "1.29.0"]
    done = subprocess.run(command, text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode != 0
    assert ">=1.30" in done.stderr
