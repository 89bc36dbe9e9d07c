"""docs/write-a-study.md from beginning to end, with the checks of docs/read-a-report.md, and the example algorithm in real processes."""

from __future__ import annotations

import os
import random
import re
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from fedstudy.agent.ledger import Head, verify
from fedstudy.aggregator.history import first_fault
from fedstudy.errors import RefusedError
from fedstudy.results import Results
from fedstudy.tensors import TensorFile

pytestmark = pytest.mark.slow


def write_guide(repository: Path, folder: Path) -> None:
    """The guide's manifests and two tables like its own: the older the patient, the likelier the wildtype."""
    text = (repository / "docs" / "write-a-study.md").read_text(encoding="utf-8")
    study, north = re.findall(r"^```yaml\n(apiVersion:.*?)^```", text, re.DOTALL | re.MULTILINE)
    folder.mkdir()
    (folder / "study.yaml").write_text(study)
    draw = random.Random(0)
    for site in ("north", "south"):
        (folder / f"{site}.yaml").write_text(north.replace("north", site))
        data = folder / "data" / site
        data.mkdir(parents=True)
        rows = ["participant_id\tage\tidh"]
        for number in range(60):
            mutant = draw.random() < 0.4
            age = round(draw.gauss(40 if mutant else 58, 10))
            rows.append(f"{site[0]}-{number:03d}\t{age}\t{'mutant' if mutant else 'wildtype'}")
        (data / "participants.tsv").write_text("\n".join(rows) + "\n")


def run(folder: Path, *words: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """`fedstudy run FOLDER`."""
    command = [sys.executable, "-m", "fedstudy_operator.cli", "run", str(folder), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": path} if path else {})
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=240, check=False)


def read(folder: Path) -> Results:
    return Results.model_validate_json((folder / "results" / "results.json").read_bytes())


def test_the_first_study_trains_and_its_books_can_be_checked(repository: Path, tmp_path: Path) -> None:
    write_guide(repository, tmp_path / "first")
    done = run(tmp_path / "first")
    assert done.returncode == 0, done.stdout + done.stderr
    found = read(tmp_path / "first")
    assert found.metrics["auc"] > 0.7
    assert len(found.rounds) == 10
    results = tmp_path / "first" / "results"
    for name in ("report.html", "model-card.md", "model.safetensors", "history.db", "logs", "state"):
        assert (results / name).exists(), name
    for site in found.sites:
        ledger = results / "sites" / site.site / "ledger.jsonl"
        head = verify(ledger)
        assert head.hash == site.ledger_head
        assert verify(ledger, known_head=Head.parse(str(head))) == head
        with pytest.raises(RefusedError):
            verify(ledger, known_head=Head(head.entries + 1, head.hash))
    with sqlite3.connect(results / "history.db") as db:
        assert first_fault(db) is None
        sent = set(re.findall(r"blake3:[0-9a-f]{64}", (results / "sites/north/ledger.jsonl").read_text()))
        counted = {digest for (digest,) in db.execute("SELECT digest FROM answers WHERE site = 'north'")}
        assert counted and counted <= sent, "what the hub counted is what the hospital's ledger says it sent"
    assert run(tmp_path / "first").returncode == 3, "a folder of results belongs to one run"


def test_an_unapproved_plan_is_refused_and_its_digest_said(repository: Path, tmp_path: Path) -> None:
    write_guide(repository, tmp_path / "first")
    for site in ("north", "south"):
        file = tmp_path / "first" / f"{site}.yaml"
        file.write_text(re.sub(r"^  approval:.*\n", "", file.read_text(), flags=re.MULTILINE))
    done = run(tmp_path / "first")
    assert done.returncode == 6, done.stdout + done.stderr
    (digest,) = set(re.findall(r"sha256:[0-9a-f]{64}", done.stderr))
    for site in ("north", "south"):
        file = tmp_path / "first" / f"{site}.yaml"
        file.write_text(file.read_text() + f'  approval: {{planDigest: "{digest}"}}\n')
    done = run(tmp_path / "first", "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert read(tmp_path / "first").plan_digest == digest


def test_the_example_algorithm_trains_in_real_processes(repository: Path, tmp_path: Path) -> None:
    write_guide(repository, tmp_path / "first")
    example = repository / "examples" / "algorithms"
    points = tomllib.loads((example / "pyproject.toml").read_text())["project"]["entry-points"]
    info = tmp_path / "installed" / "fedstudy_fedavgm-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: fedstudy-fedavgm\nVersion: 0.1.0\n")
    lines = [
        f"[{g}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for g, entries in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    for file in (tmp_path / "first").glob("*.yaml"):
        documents = list(yaml.safe_load_all(file.read_text()))
        for document in documents:
            if document["kind"] == "FederatedStudy":
                document["spec"]["federation"] |= {"rounds": 3, "algorithm": {"name": "FedAvgM"}}
            if document["kind"] == "SiteDataset":
                document["spec"]["policy"]["algorithms"] = ["FedAvgM"]
        file.write_text(yaml.safe_dump_all(documents))
    done = run(tmp_path / "first", path=f"{example}{os.pathsep}{info.parent}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert read(tmp_path / "first").algorithm == "FedAvgM"
    with TensorFile(tmp_path / "first" / "results" / "model.safetensors") as model:
        assert "fedavgm.momentum" in model.metadata
