"""The control arms: what each site would have learnt alone, and what one hospital would with everybody's rows.

They run the same code as the federated study: the same network and initial weights, splits, optimiser, and rounds ×
epochs; only who learns from what differs. The algorithm is plain descent (for NewtonRaphson: Newton's steps).
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fedstudy.aggregator.algorithms.base import training_parameters
from fedstudy.errors import DataError, PlanError
from fedstudy.evaluation import evaluation
from fedstudy.logs import log
from fedstudy.measures import Statistics, newton_step, total
from fedstudy.plan import Algorithm, Parameter, StudyPlan
from fedstudy.results import Arm, Evaluation
from fedstudy.tensors import write_bytes
from fedstudy_trainer.data.config import load_config
from fedstudy_trainer.data.dataset import SiteData, load
from fedstudy_trainer.learner import (
    TrainingDiverged,
    best_device,
    evaluate,
    network_on,
    prepare_torch,
    train,
)
from fedstudy_trainer.networks import initial_state
from fedstudy_trainer.networks.state import State
from fedstudy_trainer.pooled import PooledData
from fedstudy_trainer.statistics import site_statistics
from fedstudy_trainer.threads import in_thread

_log = logging.getLogger("fedstudy.trainer.control")

DESCRIPTIONS = {
    "local": "A model for each site, trained on that site's own cases only and judged on its own test cases.",
    "pooled": "One model trained on the cases of all sites as if one hospital had them all.",
}
CUTS = "constant.time.cuts"


async def control(options: argparse.Namespace) -> None:
    """Train an arm and write `arms.json`.

    Raises:
        PlanError: the plan's file is not a plan.
        DataError: a site's data do not fit the plan, or cannot be found.
    """
    plan = _plan(Path(options.plan))
    out = Path(options.out)
    scratch = Path(options.scratch) if options.scratch else out / "scratch"

    def work() -> Arm:
        arm = run_arm(options.arm, plan, load_sites(options.site, plan, scratch), options.threads)
        out.mkdir(parents=True, exist_ok=True)
        document = json.dumps([arm.model_dump(mode="json", by_alias=True)], indent=1)
        write_bytes(out / "arms.json", document.encode())
        return arm

    arm = await in_thread(work)
    log(_log, logging.INFO, "arm done", arm=arm.name, seconds=round(arm.seconds, 1))


def run_arm(name: str, plan: StudyPlan, sites: Mapping[str, SiteData], threads: int = 1) -> Arm:
    """Train and evaluate one arm.

    Args:
        name: local or pooled.
        sites: the data of each site by name; taken in order of name.
    """
    prepare_torch(threads)
    started = time.monotonic()
    ordered = {site: sites[site] for site in sorted(sites)}
    arm = _local(plan, ordered) if name == "local" else _pooled(plan, ordered)
    return arm.model_copy(update={"seconds": time.monotonic() - started})


def load_sites(described: list[str], plan: StudyPlan, scratch: Path) -> dict[str, SiteData]:
    """The data of sites described as NAME=DATASETJSON=DATAROOT; DATASETJSON is `dataset.json` or its folder.

    Raises:
        DataError: a description is malformed, or a dataset does not fit the plan.
    """
    sites = {}
    for text in described:
        name, _, rest = text.partition("=")
        config, _, root = rest.partition("=")
        if not (name and config and root):
            raise DataError(f"--site {text} is not NAME=DATASETJSON=DATAROOT.", "Write it so.")
        folder = Path(config) if Path(config).is_dir() else Path(config).parent
        sites[name] = load(load_config(folder), Path(root), plan, scratch)
    return sites


@dataclass(frozen=True)
class _Course:
    """A training's course: the state after each evaluated round, and the last."""

    states: dict[int, State]
    last: State


def _local(plan: StudyPlan, sites: Mapping[str, SiteData]) -> Arm:
    """Each site standardises by its own moments; the cut points of time are the study's, as they define its question."""
    shared = _statistics(plan, sites)
    courses = {}
    for site, data in sites.items():
        own = site_statistics(data.cases("training"), plan)
        state = initial_state(plan, own | {"time.events": shared["time.events"]})
        courses[site] = _course(plan, state, data, {site: data}, f"local/{site}")

    def judged(split: str, round: int) -> Evaluation:
        found = {site: _judge(plan, courses[site].states[round], sites[site], split) for site in sites}
        return evaluation(plan, split, round, found, _cuts(courses[next(iter(sites))].last))

    rounds = _evaluated(plan)
    test = judged("test", rounds[-1])
    elsewhere = _elsewhere(plan, sites, {site: course.last for site, course in courses.items()})
    return Arm(
        name="local",
        description=DESCRIPTIONS["local"],
        seconds=0.0,
        test=test.model_copy(update={"metrics": test.metrics | elsewhere}),
        own_test={record.site: record for record in test.sites},
        curve=[judged("validation", round) for round in rounds],
    )


def _pooled(plan: StudyPlan, sites: Mapping[str, SiteData]) -> Arm:
    data = PooledData(plan, list(sites.values()))
    course = _course(plan, initial_state(plan, _statistics(plan, sites)), data, sites, "pooled")

    def judged(split: str, round: int) -> Evaluation:
        found = {site: _judge(plan, course.states[round], own, split) for site, own in sites.items()}
        return evaluation(plan, split, round, found, _cuts(course.last))

    rounds = _evaluated(plan)
    return Arm(
        name="pooled",
        description=DESCRIPTIONS["pooled"],
        seconds=0.0,
        test=judged("test", rounds[-1]),
        curve=[judged("validation", round) for round in rounds],
    )


def _course(
    plan: StudyPlan, state: State, data: SiteData, sites: Mapping[str, SiteData], label: str
) -> _Course:
    """All rounds from a first state; a training that diverges, or has no case, keeps the last good state."""
    states: dict[int, State] = {}
    learning = len(data.cases("training")) > 0
    started, wanted = time.monotonic(), set(_evaluated(plan))
    for round in range(1, plan.federation.rounds + 1):
        loss = 0.0
        if learning:
            try:
                state, loss = _round(plan, state, data, sites, round, label)
            except TrainingDiverged as error:
                log(_log, logging.WARNING, "diverged", arm=label, round=round, message=str(error))
                learning = False
        if round in wanted:
            states[round] = state
        left = (time.monotonic() - started) / round * (plan.federation.rounds - round)
        log(
            _log, logging.INFO, "progress", arm=label, round=round, rounds=plan.federation.rounds,
            loss=float(f"{loss:.5g}"), seconds_left=int(left),
        )  # fmt: skip
    return _Course(states, state)


def _round(
    plan: StudyPlan, state: State, data: SiteData, sites: Mapping[str, SiteData], round: int, label: str
) -> tuple[State, float]:
    if plan.federation.algorithm.name == "NewtonRaphson":
        return _newton(plan, state, sites)
    plain = plan.model_copy(
        update={"federation": plan.federation.model_copy(update={"algorithm": Algorithm(name="FedAvg")})}
    )
    parameters: dict[str, Parameter] = training_parameters(plan, round, label)
    pooled = isinstance(data, PooledData)
    if pooled and "steps" in parameters:
        parameters["steps"] = int(parameters["steps"]) * len(sites)  # as many as all sites together
    network = network_on(plain, state, best_device())
    strata = data.strata() if isinstance(data, PooledData) else None
    trained = train(network, data, plain, parameters, strata=strata)
    return {**state, **trained.tensors}, trained.contribution.loss


def _newton(plan: StudyPlan, state: State, sites: Mapping[str, SiteData]) -> tuple[State, float]:
    """One Newton step on the rows of `sites`, each a stratum of its own."""
    network = network_on(plan, state, best_device())
    answers = [
        train(network, data, plan, {}).tensors for data in sites.values() if len(data.cases("training"))
    ]
    summed = {
        f"newton.{name}": np.sum([answer[name] for answer in answers], axis=0)
        for name in ("gradient", "information", "loglik")
    }
    names = [name for name in ("weight", "bias") if name in state]
    beta = np.concatenate([state[name].ravel().astype(np.float64) for name in names])
    ridge = float(plan.federation.algorithm.parameters.get("ridge", 0.0))
    ahead = newton_step(summed, beta, ridge).astype(np.float32)
    parts = np.split(ahead, np.cumsum([state[name].size for name in names])[:-1])
    moved: State = {name: part.reshape(state[name].shape) for name, part in zip(names, parts, strict=True)}
    cases = sum(len(data.cases("training")) for data in sites.values())
    return {**state, **moved}, -float(summed["newton.loglik"]) / max(1, cases)


def _judge(plan: StudyPlan, state: State, data: SiteData, split: str) -> Statistics:
    return evaluate(network_on(plan, state, best_device()), data, plan, split)


def _elsewhere(
    plan: StudyPlan, sites: Mapping[str, SiteData], models: Mapping[str, State]
) -> dict[str, float]:
    """`auc_elsewhere` (or `c_index_elsewhere`): the mean, over sites, of a site's model at the other sites' test cases."""
    name = "auc" if plan.task.target.classes else "c_index"
    values = []
    for home, state in models.items():
        others = {site: _judge(plan, state, data, "test") for site, data in sites.items() if site != home}
        found = evaluation(plan, "test", 0, others, _cuts(state)).metrics if others else {}
        if f"{name}_within" in found:
            values.append(found[f"{name}_within"])
    return {f"{name}_elsewhere": float(np.mean(values))} if values else {}


def _statistics(plan: StudyPlan, sites: Mapping[str, SiteData]) -> Statistics:
    return total(site_statistics(data.cases("training"), plan) for data in sites.values())


def _evaluated(plan: StudyPlan) -> list[int]:
    """The rounds after which a model is evaluated; the last is always one."""
    rounds, every = plan.federation.rounds, plan.federation.evaluate_every
    return [round for round in range(1, rounds + 1) if round % every == 0 or round == rounds]


def _plan(path: Path) -> StudyPlan:
    try:
        return StudyPlan.parse(path.read_bytes())
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}.", "Name the plan's file.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PlanError(f"{path}: {where}: {first['msg']}.", "Correct the plan.") from error


def _cuts(state: State) -> NDArray[np.float64] | None:
    return state[CUTS].astype(np.float64) if CUTS in state else None
