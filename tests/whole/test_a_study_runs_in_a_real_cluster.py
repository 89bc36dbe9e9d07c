"""Helm install hub and site, kubectl apply the example, and a study is trained: every hospital in its own pod, nothing of it mocked.

The patients are those of `make demo`: the same command that a hospital's Job runs draws them here for the comparison with one machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.cluster import build
from tests.whole.charts import Installed

from fedstudy.results import Results
from fedstudy.tensors import TensorFile

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(2400)]

SITES = ("aalborg", "bergen", "coimbra", "dresden")
STUDY_SECONDS = 1500.0


@pytest.fixture(scope="module")
def trained(installed: Installed, repository: Path) -> set[tuple[str, str]]:
    """The example, applied and complete; namespace and component of every pod that was seen on the way."""
    example = (repository / "examples/glioma-phantom/00-cluster.yaml").read_text()
    installed.kubectl("apply", "-f", "-", stdin=example.replace(":0.1.0", ":test"))
    for name in ("study", *SITES):
        installed.kubectl("apply", "-f", str(repository / f"examples/glioma-phantom/{name}.yaml"))
    seen: set[tuple[str, str]] = set()
    end = time.monotonic() + STUDY_SECONDS
    while "True" not in (state := _condition(installed, "Complete")):
        pods = json.loads(
            installed.kubectl("get", "pods", "-A", "-l", "app.kubernetes.io/part-of=fedstudy", "-o", "json")
        )
        seen |= {
            (pod["metadata"]["namespace"], pod["metadata"]["labels"].get("app.kubernetes.io/component", ""))
            for pod in pods["items"]
        }
        assert "True" not in _condition(installed, "Failed"), installed.kubectl(
            "describe", "fstudy", "-n", "hub"
        )
        assert time.monotonic() < end, (
            f"not complete ({state}): {installed.kubectl('get', 'pods,sitep,fstudy', '-A')}"
        )
        time.sleep(1)
    return seen


def _condition(installed: Installed, kind: str) -> str:
    path = f'{{.status.conditions[?(@.type=="{kind}")].status}}'
    return installed.kubectl(
        "get", "fstudy", "glioma-idh", "-n", "hub", "-o", f"jsonpath={path}", check=False
    )


@pytest.fixture(scope="module")
def fetched(
    installed: Installed, trained: set[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The results, by the kubectl plugin."""
    out = tmp_path_factory.mktemp("results")
    command = [
        str(Path(sys.executable).with_name("kubectl-fedstudy")), "results", "glioma-idh", "--namespace", "hub",
        "--kubeconfig", str(installed.cluster.kubeconfig), "-o", str(out),
    ]  # fmt: skip
    environment = {**os.environ, "KUBECTL": f"{build.binary('hyperkube')} kubectl"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return out


def test_every_hospital_is_checked_and_trained_in_a_pod_of_its_own(trained: set[tuple[str, str]]) -> None:
    for site in SITES:
        assert {(site, "agent"), (site, "preflight"), (site, "trainer")} <= trained
    assert ("hub", "aggregator") in trained


def test_no_trainer_is_left_when_the_study_is_complete(
    installed: Installed, trained: set[tuple[str, str]]
) -> None:
    end = time.monotonic() + 120
    words = (
        "get",
        "pods",
        "-A",
        "-l",
        "app.kubernetes.io/component=trainer",
        "--field-selector=status.phase=Running",
        "-o",
        "name",
    )
    while running := installed.kubectl(*words).split():
        assert time.monotonic() < end, running
        time.sleep(1)


def test_kubectl_shows_how_it_went(installed: Installed, trained: set[tuple[str, str]]) -> None:
    """Checklist 32: the columns answer "how is it going", and `kubectl wait` works."""
    row = installed.kubectl("get", "fstudy", "-n", "hub")
    assert row.split()[:7] == ["NAME", "READY", "REASON", "ROUND", "SITES", "METRIC", "AGE"]
    assert "Completed" in row
    installed.kubectl("wait", "--for=condition=Complete", "fstudy/glioma-idh", "-n", "hub", "--timeout=10s")
    for site in SITES:
        installed.kubectl("wait", "--for=condition=Complete", "sitep/glioma-idh", "-n", site, "--timeout=60s")


def test_model_and_report_are_fetched_by_the_plugin(fetched: Path) -> None:
    results = Results.model_validate_json((fetched / "results.json").read_bytes())
    assert {record.site for record in results.sites} == set(SITES)
    assert results.metrics["auc_within"] > 0.7
    for name in ("model.safetensors", "report.html", "model-card.md", "history.db"):
        assert (fetched / name).stat().st_size > 0


def test_the_model_has_the_same_bits_as_that_of_one_machine(
    fetched: Path, repository: Path, tmp_path: Path
) -> None:
    """The same manifests, patients and threads: `fedstudy run` on this machine gives the very same tensors."""
    bin = Path(sys.executable).parent
    subprocess.run(
        [str(bin / "fedstudy"), "phantom", str(tmp_path / "demo"), "--profile", "demo"], check=True
    )
    volumes = [word for site in SITES for word in ("--volume", f"{site}={tmp_path / 'demo' / 'data' / site}")]
    out = tmp_path / "results"
    command = [
        str(bin / "fedstudy"),
        "run",
        str(repository / "examples/glioma-phantom"),
        "--out",
        str(out),
        *volumes,
    ]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    with TensorFile(fetched / "model.safetensors") as there, TensorFile(out / "model.safetensors") as here:
        assert set(there) == set(here)
        for name in here:
            assert np.array_equal(there.array(name), here.array(name)), name


def test_what_helm_test_checks_holds(installed: Installed) -> None:
    installed.helm("test", "fedstudy-hub")
    installed.helm("test", "fedstudy-site")


def test_the_trainers_cannot_write_their_data_and_hold_no_token(
    installed: Installed, trained: set[tuple[str, str]]
) -> None:
    """Checklist 18, of the Jobs as the API server has them: read-only data, no token, nothing secret in the environment."""
    jobs = json.loads(
        installed.kubectl(
            "get", "jobs", "-A", "-l", "app.kubernetes.io/managed-by=fedstudy-operator", "-o", "json"
        )
    )
    assert jobs["items"]
    for job in jobs["items"]:
        spec = job["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        assert spec["automountServiceAccountToken"] is False
        assert (
            next(v for v in spec["volumes"] if v["name"] == "data")["persistentVolumeClaim"]["readOnly"]
            is True
        )
        assert next(m for m in container["volumeMounts"] if m["name"] == "data")["readOnly"] is True
        assert all("valueFrom" not in entry for entry in container["env"])
