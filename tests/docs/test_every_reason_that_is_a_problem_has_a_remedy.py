"""docs/troubleshooting.md: each reason of a condition is either no problem or has a remedy; no remedy is for a reason that no longer is."""

from __future__ import annotations

import re
from pathlib import Path

from fedstudy_operator.api.conditions import Reason

NO_PROBLEM = {
    "Running", "Participating", "Idle", "Completed", "NotSuspended", "Progressing", "Issued", "Issuing", "Available",
    "AllApproved", "EnoughSites", "RoundInProgress", "NotStarted", "RoundsCompleted", "TargetMetricReached", "NotComplete",
    "NotFailed", "CertificateIssued", "Connected", "Approved", "Satisfied", "Fits", "Readable", "Profiled", "Scheduled",
    "NoWork",
}  # fmt: skip


def test_every_reason_is_no_problem_or_has_a_remedy(repository: Path) -> None:
    text = (repository / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (\S.+) \|$", text, re.MULTILINE)
    named = [reason for cell, _ in rows for reason in re.findall(r"`(\w+)`", cell)]
    assert len(named) == len(set(named)), "a reason has two rows"
    known = {reason.value for reason in Reason}
    assert set(named) <= known
    assert known - set(named) - NO_PROBLEM == set(), "docs/troubleshooting.md: say what to do"
    assert not set(named) & NO_PROBLEM
