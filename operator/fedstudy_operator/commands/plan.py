"""`kubectl fedstudy plan PARTICIPANT`: the offered plan for the steward to read: what runs, on what, and what leaves the hospital."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fedstudy.errors import PlanError
from fedstudy.plan import StudyPlan
from fedstudy_operator.api import SiteParticipant
from fedstudy_operator.commands.access import Access


async def offered(access: Access, name: str) -> tuple[SiteParticipant, StudyPlan]:
    """A participant and the plan that its hub offers, proved to be the one that the status names.

    Raises:
        PlanError: none is offered yet, or the ConfigMap holds another.
    """
    participant = SiteParticipant.model_validate(await access.get("SiteParticipant", name))
    offer = participant.status.offered_plan
    if not offer.digest or not offer.config_map:
        raise PlanError(
            f"No plan is offered to {name} yet: {participant.status.summary or 'its agent has not reached the hub'}.",
            f"See `kubectl describe sitep {name}`.",
        )
    text = ((await access.get("ConfigMap", offer.config_map)).get("data") or {}).get("plan.json", "")
    plan = StudyPlan.parse(text.encode())
    if plan.digest() != offer.digest:
        raise PlanError(
            f"The ConfigMap {offer.config_map} holds the plan {plan.digest()}, but {offer.digest} is offered.",
            "Somebody changed it, or a new plan is on its way: look again in a moment.",
        )
    return participant, plan


def describe(participant: SiteParticipant, plan: StudyPlan) -> str:
    """The plan in words, and the line that approves it."""
    name, digest = participant.metadata.name, plan.digest()
    sections = {
        f"The study {plan.study}": _study(plan),
        "What runs": _runs(plan, participant),
        "On what": _data(plan, participant),
        "What leaves the hospital": _leaves(plan),
    }
    lines = []
    for title, rows in sections.items():
        lines.append(title)
        lines += [f"  {label:<16}{text}" for label, text in rows]
        lines.append("")
    approved = participant.spec.approval
    said = "Nobody has approved it yet."
    if approved is not None and approved.plan_digest == digest:
        said = f"Approved by {approved.approved_by or 'somebody'}{f', until {approved.not_after}' if approved.not_after else ''}."
    elif approved is not None and approved.mode is not None:
        said = "Approved as whatever the dataset's policy allows (approval.mode Automatic)."
    elif approved is not None:
        said = f"Another plan is approved: {approved.plan_digest}."
    lines += [f"Digest  {digest}", said, f"Approve with  kubectl fedstudy approve {name} --digest {digest}"]
    return "\n".join(lines)


def _study(plan: StudyPlan) -> Iterator[tuple[str, str]]:
    if plan.title:
        yield "title", plan.title
    yield "purpose", plan.purpose
    yield "uid", plan.uid


def _runs(plan: StudyPlan, participant: SiteParticipant) -> Iterator[tuple[str, str]]:
    task, training, federation = plan.task, plan.training, plan.federation
    target = task.target.label or f"{task.target.time} and {task.target.event}"
    yield "question", f"{task.type.value} of {target}{_classes(task.target.classes)}"
    network = plan.model.network
    yield "network", f"{network.name}{_arguments(network.arguments)}"
    yield "algorithm", f"{federation.algorithm.name}{_arguments(federation.algorithm.parameters)}"
    yield (
        "rounds",
        f"{federation.rounds}, each at least {federation.min_sites} sites, {federation.round_timeout_seconds} s at most",
    )
    work = f"{training.local_epochs} epochs" if training.local_epochs else f"{training.local_steps} steps"
    yield (
        "per round",
        f"{work} of {training.optimizer.name.value} at {training.optimizer.learning_rate:g}, batches of {training.batch_size}",
    )
    image = participant.spec.trainer.image or plan.trainer_image
    yield "trainer image", image or "the one of this hospital's operator"


def _data(plan: StudyPlan, participant: SiteParticipant) -> Iterator[tuple[str, str]]:
    yield "dataset", f"{participant.spec.dataset_ref}, read only"
    if plan.task.images:
        yield "images", ", ".join(plan.task.images)
    columns = [c.name for c in plan.task.covariates]
    target = plan.task.target
    columns += [c for c in (target.label, target.time, target.event) if c]
    yield "columns", ", ".join(columns)
    require = [*plan.cohort.require.images, *plan.cohort.require.columns]
    yield (
        "cases",
        f"at least {plan.cohort.min_cases} for training"
        + (f", each with {', '.join(require)}" if require else ""),
    )


def _leaves(plan: StudyPlan) -> Iterator[tuple[str, str]]:
    transfer = plan.federation.transfer
    yield "never", "an image, a row of the table, or a prediction for a patient"
    yield (
        "once",
        "sums over the training cases: counts, means and variances of covariates, counts of classes or event times",
    )
    form = transfer.encoding.value + (", as differences" if transfer.delta else "")
    yield "each round", f"the trained model's weights ({form}), number of cases and steps, mean loss, seconds"
    yield (
        "when evaluating",
        f"sums over the validation and test cases from which metrics are made, every {plan.federation.evaluate_every} rounds",
    )
    yield "all the time", "progress: cases done, loss, rate"


def _classes(classes: list[str] | None) -> str:
    return f" ({', '.join(classes)})" if classes else ""


def _arguments(values: Mapping[str, Any]) -> str:
    plain = {k: v for k, v in values.items() if v is not None}
    return f" {json.dumps(plain, sort_keys=True, default=str)}" if plain else ""
