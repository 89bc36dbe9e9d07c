"""The real kstatus (cli-utils), as Flux, kpt and Argo CD's sync use it, on every state that the operator's own code writes.

The states are those of docs/gitops/argo-cd/testdata, which a test keeps equal to what the operator writes.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from tests.cluster import build, fixtures

pytestmark = pytest.mark.slow  # the first time: kstatus is built

TESTDATA = Path(__file__).resolve().parents[2] / "docs" / "gitops" / "argo-cd" / "testdata"
JUDGED = {
    "study-new": "Current",  # no status yet; the API server never shows it so: it gives observedGeneration 0
    "study-provisioning": "InProgress",
    "study-waiting-for-sites": "InProgress",
    "study-behind": "InProgress",
    "study-training": "Current",
    "study-suspended": "Current",
    "study-complete": "Current",
    "study-failed": "Failed",
    "study-invalid": "Failed",
    "participant-not-invited": "InProgress",
    "participant-waiting-for-approval": "InProgress",
    "participant-training": "Current",
    "participant-suspended": "Current",
    "participant-refused-by-policy": "Failed",
    "participant-leaving": "Terminating",
    "participant-complete": "Current",
    "dataset-not-profiled": "Current",
    "dataset-profiled": "Current",
}


@pytest.fixture(scope="module")
def kstatus() -> Path:
    """The program, built from tests/cluster/kstatus."""
    fixtures.skip_or_fail(fixtures.why_no_build("kstatus"))
    return build.binary("kstatus")


def judge(program: Path, text: str) -> tuple[str, str]:
    """Status and message of an object."""
    done = subprocess.run([program], input=text, capture_output=True, text=True, check=True)
    status, _, message = done.stdout.strip().partition("\t")
    return status, message


def test_every_state_is_judged() -> None:
    assert {path.stem for path in TESTDATA.glob("*.yaml")} == set(JUDGED)


@pytest.mark.parametrize("name", JUDGED)
def test_kstatus_judges_a_state(kstatus: Path, name: str) -> None:
    """Checklist G, point 5: InProgress becomes Current, or Failed on a terminal error, by kstatus itself."""
    status, message = judge(kstatus, (TESTDATA / f"{name}.yaml").read_text())
    assert status == JUDGED[name], message


def test_a_study_that_nobody_has_seen_is_in_progress(kstatus: Path) -> None:
    """Checklist G, point 5: as the API server shows a new study, with the status that the definition gives by default."""
    study = yaml.safe_load((TESTDATA / "study-new.yaml").read_text())
    assert judge(kstatus, yaml.safe_dump({**study, "status": {"observedGeneration": 0}}))[0] == "InProgress"
