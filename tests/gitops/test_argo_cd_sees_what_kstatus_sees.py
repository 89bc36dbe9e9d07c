"""docs/gitops/argo-cd (checklist 5): health.lua gives each state its health, as kstatus would, on statuses that the operator's own code writes.

The test data are in Argo CD's form (health_test.yaml, testdata/), for its repository. FEDSTUDY_GOLDEN=write writes them anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedstudy.wire.admin import AgentState, AggregatorState, DatasetProfile, Phase, SiteState
from fedstudy_operator.api import FederatedStudy, SiteParticipant
from fedstudy_operator.api.conditions import Reason, condition, merge
from fedstudy_operator.reconcile import dataset as dataset_status
from fedstudy_operator.reconcile import participant_status, study_status

lua = pytest.importorskip("lupa.lua51", reason="the Lua of Argo CD is 5.1: pip install lupa")

Object = dict[str, Any]
FOLDER = Path(__file__).resolve().parents[2] / "docs" / "gitops" / "argo-cd"
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "glioma-phantom"
DIGEST = f"sha256:{'a' * 64}"
MATCHES = {
    "InProgress": {"Progressing"},
    "Current": {"Healthy", "Suspended"},
    "Failed": {"Degraded"},
    "Terminating": {"Progressing"},
}
"""kstatus → Argo CD's health."""


def kstatus(obj: Object) -> str:
    """The rules of cli-utils' pkg/kstatus for a custom resource, in their order."""
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    status = obj.get("status") or {}
    if "observedGeneration" in status and status["observedGeneration"] != obj["metadata"]["generation"]:
        return "InProgress"
    found = {entry["type"]: entry["status"] for entry in status.get("conditions") or []}
    if found.get("Reconciling") == "True":
        return "InProgress"
    if found.get("Stalled") == "True":
        return "Failed"
    if "Ready" in found:
        return "Current" if found["Ready"] == "True" else "InProgress"
    return "Current"


def table(runtime: Any, value: Any) -> Any:
    """A Python value as Argo CD hands it to Lua."""
    if isinstance(value, dict):
        return runtime.table_from({key: table(runtime, item) for key, item in value.items()})
    if isinstance(value, list):
        return runtime.table_from([table(runtime, item) for item in value])
    return value


def run(script: str, obj: Object) -> Any:
    """What a script of Argo CD returns for an object."""
    runtime = lua.LuaRuntime(unpack_returned_tuples=True)
    runtime.globals()["obj"] = table(runtime, obj)
    return runtime.execute((FOLDER / script).read_text())


def health(obj: Object) -> tuple[str, str]:
    """Status and message that Argo CD shows."""
    result = run("health.lua", obj)
    return result["status"], result["message"]


def study(status: Callable[[FederatedStudy], Object] | None = None, **spec: Any) -> Object:
    """The example's study with a status of the operator."""
    obj: Object = yaml.safe_load((EXAMPLE / "study.yaml").read_text())
    obj["metadata"] |= {"uid": "0e9f5b5c-0000-4000-8000-000000000001", "generation": 2}
    obj["spec"] |= spec
    if status is not None:
        obj["status"] = status(FederatedStudy.model_validate(obj))
    return obj


def aggregator(phase: Phase, **fields: Any) -> study_status.Seen:
    """What is seen of a study whose aggregator is in a phase."""
    sites = [
        SiteState(name=name, connected=True, state="Idle")
        for name in ("aalborg", "bergen", "coimbra", "dresden")
    ]
    state = AggregatorState(
        phase=phase, plan_digest=DIGEST, rounds=20, round=3, sites=fields.pop("sites", sites), **fields
    )
    return study_status.Seen(
        plan_digest=DIGEST,
        endpoint="hub.example:443",
        certificates=True,
        ready=True,
        connected=True,
        state=state,
    )


def participant(seen: participant_status.Seen | None = None, **spec: Any) -> Object:
    """The example's first participant with a status of the operator."""
    obj: Object = list(yaml.safe_load_all((EXAMPLE / "aalborg.yaml").read_text()))[1]
    obj["metadata"] |= {"uid": "0e9f5b5c-0000-4000-8000-000000000002", "generation": 1}
    obj["spec"] |= spec
    if seen is not None:
        obj["status"] = participant_status.status(SiteParticipant.model_validate(obj), {}, seen)
    return obj


def agent(**fields: Any) -> participant_status.Seen:
    """What is seen of a participant whose agent is enrolled and connected."""
    profile = DatasetProfile(plan_digest=DIGEST, fits=True, cases=40)
    known: dict[str, Any] = {
        "enrolled": True, "connected": True, "approved": True, "plan": "{}", "plan_digest": DIGEST, "profile": profile,
    }  # fmt: skip
    state = AgentState(**{**known, **fields})
    return participant_status.Seen(invited=True, agent_ready=True, state=state, connected=True)


def dataset(profile: DatasetProfile | None) -> Object:
    """The example's first dataset with a status of the operator."""
    obj: Object = next(iter(yaml.safe_load_all((EXAMPLE / "aalborg.yaml").read_text())))
    obj["metadata"]["generation"] = 1
    wanted = dataset_status.conditions(profile, [], {})
    obj["status"] = {"observedGeneration": 1, "conditions": merge([], wanted, generation=1)}
    return obj


def states() -> dict[str, tuple[str, Object]]:
    """Name of a file → the health that is wanted, and the object."""
    stalled = condition("Stalled", True, Reason.INVALID_SPEC, "spec.federation.minSites: …")
    invalid = study()
    invalid["status"] = study_status.invalid(invalid, stalled.message)
    behind = study(lambda s: study_status.status(s, {}, aggregator(Phase.TRAINING)))
    behind["metadata"]["generation"] = 3
    leaving = participant(agent(work="0003-000-train-aalborg"))
    leaving["metadata"]["deletionTimestamp"] = "2026-11-26T12:00:00Z"

    def seen(phase: Phase, **fields: Any) -> Callable[[FederatedStudy], Object]:
        return lambda s: study_status.status(s, {}, aggregator(phase, **fields))

    return {
        "study-new": ("Progressing", study()),
        "study-provisioning": ("Progressing", study(lambda s: study_status.status(s, {}, study_status.Seen()))),
        "study-waiting-for-sites": ("Progressing", study(seen(Phase.WAITING_FOR_SITES, sites=[]))),
        "study-behind": ("Progressing", behind),
        "study-training": ("Healthy", study(seen(Phase.TRAINING))),
        "study-suspended": ("Suspended", study(seen(Phase.SUSPENDED), suspend=True)),
        "study-complete": ("Healthy", study(seen(Phase.COMPLETE))),
        "study-failed": ("Degraded", study(seen(Phase.FAILED, reason="QuorumMissing", message="no site is left"))),
        "study-invalid": ("Degraded", invalid),
        "participant-not-invited": ("Progressing", participant(participant_status.Seen())),
        "participant-waiting-for-approval": (
            "Progressing", participant(agent(approved=False, approval_reason="WaitingForApproval")),
        ),
        "participant-training": ("Healthy", participant(agent(work="0003-000-train-aalborg", round=3))),
        "participant-suspended": ("Suspended", participant(agent(), suspend=True)),
        "participant-refused-by-policy": (
            "Degraded", participant(agent(approved=False, violations=["policy.purposes: DUO:0000007 is not allowed"])),
        ),
        "participant-leaving": ("Progressing", leaving),
        "participant-complete": ("Healthy", participant(agent(finished=True))),
        "dataset-not-profiled": ("Healthy", dataset(None)),
        "dataset-profiled": ("Healthy", dataset(DatasetProfile(plan_digest=DIGEST, fits=True, cases=40))),
    }  # fmt: skip


def steady(obj: Object) -> Object:
    """An object without the time at which it was made."""
    for entry in (obj.get("status") or {}).get("conditions") or []:
        entry["lastTransitionTime"] = "2026-11-26T12:00:00Z"
    return obj


STATES = states()


@pytest.mark.parametrize("name", STATES)
def test_every_state_has_the_health_that_a_person_expects(name: str) -> None:
    wanted, obj = STATES[name]
    status, message = health(obj)
    assert status == wanted, message
    assert message


@pytest.mark.parametrize("name", STATES)
def test_kstatus_says_the_same(name: str) -> None:
    _, obj = STATES[name]
    if obj.get("status") is None:
        return  # kstatus calls what has no status yet current: the first pass writes one within a second
    assert health(obj)[0] in MATCHES[kstatus(obj)]


def test_a_study_goes_from_in_progress_to_current_and_all_states_are_reached() -> None:
    order = ["study-provisioning", "study-waiting-for-sites", "study-training", "study-complete"]
    assert [kstatus(STATES[name][1]) for name in order] == ["InProgress", "InProgress", "Current", "Current"]
    assert {kstatus(obj) for _, obj in STATES.values()} == set(MATCHES)
    assert {health(obj)[0] for _, obj in STATES.values()} == {
        "Progressing",
        "Healthy",
        "Suspended",
        "Degraded",
    }


def test_a_message_tells_the_reason(repository: Path) -> None:
    assert health(STATES["study-failed"][1])[1].startswith("Failed: QuorumMissing")
    assert health(STATES["participant-refused-by-policy"][1])[1].startswith("PolicyRefused: policy.purposes")


def test_the_test_data_are_what_the_operator_writes() -> None:
    cases = []
    for name, (_, obj) in STATES.items():
        status, message = health(obj)
        text = yaml.safe_dump(steady(obj), sort_keys=False, width=120, allow_unicode=True)
        file = FOLDER / "testdata" / f"{name}.yaml"
        if os.environ.get("FEDSTUDY_GOLDEN") == "write":
            file.write_text(text, encoding="utf-8")
        assert file.read_text(encoding="utf-8") == text, "FEDSTUDY_GOLDEN=write pytest tests/gitops"
        cases.append(
            {"healthStatus": {"status": status, "message": message}, "inputPath": f"testdata/{name}.yaml"}
        )
    text = yaml.safe_dump({"tests": cases}, sort_keys=False, width=120, allow_unicode=True)
    file = FOLDER / "health_test.yaml"
    if os.environ.get("FEDSTUDY_GOLDEN") == "write":
        file.write_text(text, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text
    assert {path.stem for path in (FOLDER / "testdata").iterdir()} == set(STATES)


@pytest.mark.parametrize(
    "name", ["study-training", "study-suspended", "participant-training", "participant-suspended"]
)
def test_argo_cd_can_suspend_and_resume(name: str) -> None:
    _, obj = STATES[name]
    suspended = name.endswith("suspended")
    actions = run("actions/discovery.lua", obj)
    assert (actions["suspend"]["disabled"], actions["resume"]["disabled"]) == (suspended, not suspended)
    assert run("actions/suspend.lua", obj)["spec"]["suspend"] is True
    assert run("actions/resume.lua", obj)["spec"]["suspend"] is False
