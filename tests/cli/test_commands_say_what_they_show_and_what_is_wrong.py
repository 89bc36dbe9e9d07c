"""What the cluster's commands make of resources: plain functions, and errors that need no cluster."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from tests.cli.conftest import Run
from tests.operator.test_children_fit_the_hospitals_cluster import a_study

from fedstudy.errors import ManifestError
from fedstudy_operator import manifests
from fedstudy_operator.api import SiteParticipant
from fedstudy_operator.commands.approve import approval, checked_time
from fedstudy_operator.commands.invite import manifests as invitation
from fedstudy_operator.commands.plan import describe
from fedstudy_operator.commands.status import age, show
from fedstudy_operator.commands.where import Where
from fedstudy_operator.pki import make_authority

NOW = datetime(2027, 1, 2, 12, 0, tzinfo=UTC)


def a_participant(**spec: Any) -> SiteParticipant:
    remote = {"endpoint": "hub.example.org:443", "invitation": {"secretName": "glioma-invitation"}}
    return SiteParticipant.model_validate(
        {
            "metadata": {"name": "glioma", "namespace": "north", "uid": "u2"},
            "spec": {
                "study": {"name": "glioma", "hub": remote},
                "siteName": "north",
                "datasetRef": "scans",
                **spec,
            },
        }
    )


def text_of(renderable: Any) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


def test_a_plan_says_what_runs_on_what_and_what_leaves() -> None:
    plan = a_study(sites=[{"name": "north"}]).plan()
    text = describe(a_participant(), plan)
    for words in (
        "Classification of idh (wildtype, mutant)",
        "Linear",
        "FedAvg",
        "DUO:0000007",
        "scans, read only",
        "age, idh",
    ):
        assert words in text
    assert "never           an image, a row of the table" in text
    assert text.endswith(f"kubectl fedstudy approve glioma --digest {plan.digest()}")
    assert "Nobody has approved it yet." in text


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            {"planDigest": "{digest}", "approvedBy": "Eve", "notAfter": "2028-01-01T00:00:00Z"},
            "Approved by Eve, until 2028",
        ),
        ({"mode": "Automatic"}, "whatever the dataset's policy allows"),
        ({"planDigest": "sha256:" + "0" * 64}, "Another plan is approved: sha256:000"),
    ],
)
def test_a_plan_says_whether_it_is_approved(said: dict[str, str], words: str) -> None:
    plan = a_study(sites=[{"name": "north"}]).plan()
    said = {name: value.replace("{digest}", plan.digest()) for name, value in said.items()}
    assert words in describe(a_participant(approval=said), plan)


def test_an_invitation_is_ready_for_git_and_says_that_it_is_secret(tmp_path: Path) -> None:
    pair = make_authority("x", 2)
    files = {
        "tls.crt": pair.certificate_pem,
        "tls.key": pair.key_pem,
        "ca.crt": pair.certificate_pem,
        "endpoint": "hub.example.org:443",
    }
    text = invitation(a_study(sites=[{"name": "north"}]), "north", "hospital", files, used=False)
    assert "SECRET" in text
    assert "USED" not in text
    secret, participant = yaml.safe_load_all(text)
    assert secret["stringData"] == {name: files[name] for name in ("tls.crt", "tls.key", "ca.crt")}
    hub = participant["spec"]["study"]["hub"]
    assert hub == {
        "endpoint": "hub.example.org:443",
        "serverName": "aggregator",
        "invitation": {"secretName": secret["metadata"]["name"]},
    }
    assert {o["metadata"]["namespace"] for o in (secret, participant)} == {"hospital"}
    (tmp_path / "invitation.yaml").write_text(text.replace("CHANGE-ME", "scans"))
    _, faults = manifests.read([tmp_path])
    assert [f for f in faults if f.field != "spec.datasetRef"] == []
    assert "USED" in invitation(a_study(sites=[{"name": "north"}]), "north", "hospital", files, used=True)


def test_an_unfilled_invitation_is_refused_by_its_field(tmp_path: Path) -> None:
    pair = make_authority("x", 2)
    files = {"tls.crt": pair.certificate_pem, "tls.key": pair.key_pem, "ca.crt": "", "endpoint": "h:443"}
    (tmp_path / "i.yaml").write_text(
        invitation(a_study(sites=[{"name": "north"}]), "north", "hospital", files, used=False)
    )
    _, faults = manifests.read([tmp_path])
    assert "spec.datasetRef" in {f.field for f in faults}


def test_an_approval_owns_the_approval_and_nothing_else() -> None:
    made = approval("glioma", "north", "sha256:1", "eve", "")
    assert made["spec"] == {"approval": {"planDigest": "sha256:1", "approvedBy": "eve"}}
    assert (
        approval("g", "n", "d", "e", "2027-01-01T00:00:00Z")["spec"]["approval"]["notAfter"]
        == "2027-01-01T00:00:00Z"
    )


@pytest.mark.parametrize("text", ["tomorrow", "2027-01-01", "2027-01-01T00:00:00", "2027-13-01T00:00:00Z"])
def test_a_time_without_a_zone_is_no_end_of_an_approval(text: str) -> None:
    with pytest.raises(ManifestError, match="is no time"):
        checked_time(text)


def a_running_study() -> dict[str, Any]:
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "WaitingForSites",
        "message": "2 of 3 sites are there",
    }
    sites = [
        {
            "name": "north",
            "decision": "Enrolled",
            "state": "Training",
            "connected": True,
            "lastRound": 3,
            "bytes": 12_300_000,
        },
        {
            "name": "south",
            "decision": "Enrolled",
            "state": "Late",
            "connected": False,
            "reason": "Disconnected",
        },
    ]
    return {
        "kind": "FederatedStudy",
        "metadata": {"name": "glioma", "namespace": "hub", "creationTimestamp": "2027-01-02T09:00:00Z"},
        "spec": {"sites": [{"name": "north"}, {"name": "south"}], "federation": {"rounds": 10}},
        "status": {
            "conditions": [ready],
            "round": {"completed": 3, "total": 10},
            "sites": sites,
            "metrics": [
                {"name": "log_loss", "value": 0.5, "round": 3},
                {"name": "auc", "value": 0.875, "round": 3},
            ],
        },
    }


def test_a_study_and_its_sites_are_tables() -> None:
    text = text_of(show([a_running_study()], [], NOW, sites=True))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[1] == "hub/glioma False WaitingForSites 3/10 1/2 auc 0.875 3h"
    assert "north Training 3 – 12.3 MB" in lines
    assert "south Late (lost) – – 0 B Disconnected" in lines
    assert "hub/glioma: 2 of 3 sites are there" in lines


def test_what_has_no_status_yet_is_shown_as_unknown() -> None:
    participant = {
        "kind": "SiteParticipant",
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"study": {"name": "s"}, "siteName": "x"},
    }
    study = {"kind": "FederatedStudy", "metadata": {"name": "s", "namespace": "n"}, "spec": {}}
    text = text_of(show([study], [participant], NOW, sites=False))
    assert text.count("Unknown") == 2
    assert text_of(show([], [], NOW, sites=False)).strip() == "Nothing of fedstudy is here."


@pytest.mark.parametrize(
    ("made", "said"),
    [("2027-01-02T11:59:15Z", "45s"), ("2027-01-02T11:48:00Z", "12m"), ("2026-12-24T12:00:00Z", "9d")],
)
def test_ages_are_kubectls(made: str, said: str) -> None:
    assert age({"metadata": {"creationTimestamp": made}}, NOW) == said


def test_where_is_passed_on_to_kubectl() -> None:
    assert Where("ns", "ctx", "/k").words == ["--namespace", "ns", "--context", "ctx", "--kubeconfig", "/k"]
    assert Where().words == []


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("plan", "glioma"),
        ("invite", "s", "h"),
        ("results", "s"),
        ("suspend", "s"),
        ("support-bundle",),
    ],
)
def test_without_a_cluster_a_command_says_so(run: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    said = run(*words, "--kubeconfig", str(tmp_path / "none"))
    assert said.code == 8
    assert "is no usable kubeconfig" in said.err
    assert "→ " in said.err
    assert "Traceback" not in said.err


def test_the_plan_of_files_is_as_before(run: Run, repository: Path) -> None:
    said = run("plan", str(repository / "examples" / "glioma-phantom"))
    assert said.code == 0
    assert '"apiVersion":"fedstudy.io/plan' in said.out or '"study":"' in said.out


def test_approve_wants_a_digest(run: Run) -> None:
    assert run("approve", "glioma").code == 2
