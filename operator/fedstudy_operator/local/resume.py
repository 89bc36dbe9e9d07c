"""What a resumed run takes over from the one before: its objects, the plans that it began with, and no failure."""

from __future__ import annotations

from pathlib import Path

from fedstudy.errors import PlanError, RefusedError
from fedstudy_operator.api import FederatedStudy
from fedstudy_operator.children.common import COMPONENT
from fedstudy_operator.children.participant import PREFLIGHT
from fedstudy_operator.cluster import Key, NotFoundError
from fedstudy_operator.local.plans import plan_of
from fedstudy_operator.local.prepare import Work
from fedstudy_operator.local.store import LocalCluster
from fedstudy_operator.reconcile.causes import job_end

_ANEW = "Undo the change to go on, or begin anew with another --out, once each hospital has approved the new plan."


async def take_over(cluster: LocalCluster, folder: Path, work: Work) -> None:
    """Load what an earlier run has saved, if one has, and forget what failed: a person may have mended it meanwhile.

    Args:
        folder: where the earlier run has saved its objects.

    Raises:
        PlanError, RefusedError: a study's plan is not the one that the run began with.
    """
    if not (folder / "objects.json").exists():
        return
    cluster.load(folder)
    for study in work.studies:
        await _require_same_plan(cluster, work, study)
    for job in await cluster.list("Job"):
        checks = (job["metadata"].get("labels") or {}).get(COMPONENT) == PREFLIGHT
        if checks or job_end(job) == "Failed":
            await cluster.delete(Key("Job", job["metadata"]["namespace"], job["metadata"]["name"]))


async def _require_same_plan(cluster: LocalCluster, work: Work, study: FederatedStudy) -> None:
    name = study.metadata.name
    try:
        before = await cluster.get(Key("FederatedStudy", study.metadata.namespace, name))
    except NotFoundError:
        return
    began, now = (before.get("status") or {}).get("planDigest", ""), str(plan_of(study).digest())
    if not began or began == now:
        return
    text = f"{name}: the plan has changed since this run began: it was {began}, now it is {now}."
    approvals = {p.spec.site_name: p.spec.approval.plan_digest for p in work.sites(study) if p.spec.approval}
    others = [site for site, digest in approvals.items() if digest not in (None, now)]
    if others:
        raise RefusedError(f"{text} {', '.join(others)} approved {approvals[others[0]]}.", _ANEW)
    raise PlanError(text, _ANEW)
