"""A plan held against a hospital's policy and approval."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import small_study

from fedstudy.agent.policy import approval, evaluate
from fedstudy.plan import StudyPlan
from fedstudy.wire.admin import Approval, DatasetPolicy

NOW = datetime(2026, 6, 1, tzinfo=UTC)
OPEN = DatasetPolicy(
    purposes=["DUO:0000007"],
    algorithms=["*"],
    networks=["*"],
    images=["*"],
    min_sites=1,
    require_secure_aggregation=False,
    max_concurrent_studies=4,
)


def plan(**changes: Any) -> StudyPlan:
    return small_study.plan(**{"federation": {"rounds": 2, "minSites": 3}, **changes})


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({"purposes": []}, "PurposeRefused"),
        ({"purposes": ["DUO:0000042"]}, "PurposeRefused"),
        ({"purposes": ["*"]}, "PurposeRefused"),
        ({"algorithms": []}, "AlgorithmRefused"),
        ({"algorithms": ["FedProx"]}, "AlgorithmRefused"),
        ({"networks": []}, "NetworkRefused"),
        ({"networks": ["DenseNet121"]}, "NetworkRefused"),
        ({"min_sites": 4}, "TooFewSites"),
        ({"require_secure_aggregation": True}, "SecureAggregationRequired"),
        ({"max_concurrent_studies": 1}, "TooManyStudies"),
    ],
)
def test_each_refusal_names_its_field_and_its_reason(policy: dict[str, Any], reason: str) -> None:
    violations = evaluate(plan(), OPEN.model_copy(update=policy), studies_using_dataset=2)
    assert [v.reason for v in violations] == [reason]
    assert violations[0].field
    assert violations[0].message.endswith(".")


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"algorithms": ["FedAvg"]},
        {"networks": ["MLP", "Linear"]},
        {"min_sites": 3},
        {"images": []},  # the plan names no image: one machine
        {"max_concurrent_studies": 2},
    ],
)
def test_what_the_policy_names_may_run(policy: dict[str, Any]) -> None:
    assert evaluate(plan(), OPEN.model_copy(update=policy), studies_using_dataset=2) == []


DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("image", "allowed", "runs"),
    [
        (DIGEST, [DIGEST], True),
        (f"registry.example/fedstudy-trainer@{DIGEST}", [DIGEST], True),
        (f"registry.example/fedstudy-trainer@{DIGEST}", ["registry.example/fedstudy-trainer"], True),
        (
            f"registry.example:5000/fedstudy-trainer:1.0@{DIGEST}",
            ["registry.example:5000/fedstudy-trainer"],
            True,
        ),
        (DIGEST, ["*"], True),
        (DIGEST, [], False),
        (DIGEST, ["sha256:" + "b" * 64], False),
        (f"registry.example/evil@{DIGEST}", ["registry.example/fedstudy-trainer"], False),
        (f"registry.example/fedstudy-trainer-evil@{DIGEST}", ["registry.example/fedstudy-trainer"], False),
    ],
)
def test_an_image_is_allowed_by_digest_or_repository(image: str, allowed: list[str], runs: bool) -> None:
    violations = evaluate(
        plan(trainerImage=image), OPEN.model_copy(update={"images": allowed}), studies_using_dataset=1
    )
    assert [v.reason for v in violations] == ([] if runs else ["ImageRefused"])


plans = st.builds(
    lambda purpose, algorithm, network, sites, image: plan(
        purpose=purpose,
        model={"network": {"name": network}},
        federation={"rounds": 1, "minSites": sites, "algorithm": {"name": algorithm}},
        trainerImage=image,
    ),
    st.text(min_size=0, max_size=20),
    st.sampled_from(["FedAvg", "FedProx", "Mine"]),
    st.sampled_from(["Linear", "MLP"]),
    st.integers(1, 256),
    st.sampled_from(["", DIGEST]),
)
approvals = st.builds(
    Approval,
    mode=st.sampled_from(["Digest", "Automatic", "None"]),
    plan_digest=st.sampled_from(["", DIGEST]),
    not_after=st.sampled_from(["", "2099-01-01T00:00:00Z"]),
)


@given(plans, approvals)
def test_an_unset_policy_refuses_every_plan_whatever_was_approved(study: StudyPlan, wishes: Approval) -> None:
    assert evaluate(study, DatasetPolicy(), studies_using_dataset=1)
    exact = wishes.model_copy(update={"plan_digest": study.digest()})
    for word in (wishes, exact):
        assert approval(study, word, DatasetPolicy(), NOW).reason == "PolicyRefused"


@given(plans, st.data())
def test_tightening_a_policy_never_allows_more(study: StudyPlan, data: st.DataObject) -> None:
    field, value = data.draw(
        st.sampled_from(
            [
                ("purposes", []),
                ("algorithms", []),
                ("networks", []),
                ("images", []),
                ("min_sites", 256),
                ("require_secure_aggregation", True),
                ("max_concurrent_studies", 1),
            ]
        )
    )
    before = {v.field for v in evaluate(study, OPEN, studies_using_dataset=2)}
    after = {
        v.field for v in evaluate(study, OPEN.model_copy(update={field: value}), studies_using_dataset=2)
    }
    assert before <= after


def soon(hours: float) -> str:
    return (NOW + timedelta(hours=hours)).isoformat()


@pytest.mark.parametrize(
    ("wishes", "reason"),
    [
        (Approval(), "WaitingForApproval"),
        (Approval(mode="Digest"), "WaitingForApproval"),
        (Approval(mode="Digest", plan_digest=DIGEST), "DigestMismatch"),
        (Approval(mode="Digest", plan_digest=plan().digest()), "Approved"),
        (Approval(mode="Digest", plan_digest=plan().digest(), not_after=soon(1)), "Approved"),
        (Approval(mode="Digest", plan_digest=plan().digest(), not_after=soon(-1)), "ApprovalExpired"),
        (Approval(mode="Digest", plan_digest=plan().digest(), not_after="next week"), "ApprovalExpired"),
        (
            Approval(mode="Digest", plan_digest=plan().digest(), not_after="2099-01-01T00:00:00"),
            "ApprovalExpired",
        ),
        (Approval(mode="Automatic"), "Approved"),
        (Approval(mode="Automatic", not_after=soon(-1)), "ApprovalExpired"),
    ],
)
def test_an_approval_counts_for_one_digest_and_until_its_end(wishes: Approval, reason: str) -> None:
    verdict = approval(plan(), wishes, OPEN, NOW)
    assert verdict.reason == reason
    assert verdict.approved == (reason == "Approved")


def test_any_change_of_the_plan_lapses_its_approval() -> None:
    wishes = Approval(mode="Digest", plan_digest=plan().digest())
    changed = plan(training={"localEpochs": 2, "optimizer": {"learningRate": 0.1}})
    assert approval(changed, wishes, OPEN, NOW).reason == "DigestMismatch"


def test_the_policy_wins_over_an_automatic_approval() -> None:
    strict = OPEN.model_copy(update={"min_sites": 10})
    assert approval(plan(), Approval(mode="Automatic"), strict, NOW).reason == "PolicyRefused"
