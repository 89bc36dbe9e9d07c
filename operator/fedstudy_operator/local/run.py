"""`fedstudy run`: the studies of some manifests from beginning to end on this machine."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from fedstudy.aggregator import report as aggregator_report
from fedstudy.errors import InterruptedByUserError, NoSpaceError
from fedstudy.logs import configure
from fedstudy.wire.admin import AgentState
from fedstudy_operator.api import FederatedStudy
from fedstudy_operator.children import participant as participant_children
from fedstudy_operator.children import study as study_children
from fedstudy_operator.children.common import Owner
from fedstudy_operator.cluster import InvalidObjectError, Object
from fedstudy_operator.display import Display, StudyView
from fedstudy_operator.local.arms import Controls
from fedstudy_operator.local.forks import Forks, trainers
from fedstudy_operator.local.kubelet import Kubelet
from fedstudy_operator.local.outcome import write_outcome
from fedstudy_operator.local.plans import local_uid
from fedstudy_operator.local.prepare import Options, Work, prepare, results_folder
from fedstudy_operator.local.resume import take_over
from fedstudy_operator.local.runner import LocalOperator
from fedstudy_operator.local.store import LocalCluster
from fedstudy_operator.local.watch import USER, Session
from fedstudy_operator.manifests import KINDS

_SAVE_SECONDS = 0.5
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of a full disk."""


async def run_studies(options: Options, console: Console) -> None:
    """Run all studies of some manifests, and write their results.

    Raises:
        ManifestError: the manifests cannot be run.
        DataError, RefusedError, StudyFailedError: too few sites can take part, or a study failed.
        NoSpaceError: the disk is full.
        InterruptedByUserError: a signal came; everything was stopped in order, and --resume goes on.
    """
    work = prepare(options)
    try:
        with results_folder(options) as state:
            configure("operator", logging.INFO, file=options.out / "logs" / "operator.log")
            async with _interruptible():
                await _run(options, work, state, console)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise NoSpaceError(
            f"No space left to write {error.filename or options.out}.",
            "Everything was stopped in order. Free some space, then go on with --resume.",
        ) from None


async def _run(options: Options, work: Work, state: Path, console: Console) -> None:
    images = any(study.spec.task.images for study in work.studies)
    async with trainers(options.out / "logs", images=images) as forks:
        await _run_with(forks, options, work, state, console)


async def _run_with(forks: Forks, options: Options, work: Work, state: Path, console: Console) -> None:
    cluster = LocalCluster(validate=_validate, uid=local_uid)
    await take_over(cluster, state / "cluster", work)
    kubelet = Kubelet(cluster, state, logs=options.out / "logs", claims=work.claims, forks=forks)
    operator = LocalOperator(cluster, kubelet)
    progress = _JSONLines() if options.as_json else lambda views: None
    with Display(console, quiet=options.as_json) as display:
        session = Session(options, work, cluster, operator, display, progress)
        for obj in work.objects:
            await cluster.apply(obj, manager=USER)
        saver = asyncio.create_task(_keep(cluster, state / "cluster", display))
        try:
            async with operator:
                await session.watch()
        finally:
            saver.cancel()
            await asyncio.gather(saver, return_exceptions=True)
            cluster.save(state / "cluster")
    agents = {participant.metadata.namespace: session.agent(participant) for participant in work.participants}
    for study in work.studies:
        await _conclude(options, work, study, state, kubelet, forks, agents, display)


async def _conclude(
    options: Options,
    work: Work,
    study: FederatedStudy,
    state: Path,
    kubelet: Kubelet,
    forks: Forks,
    agents: Mapping[str, AgentState | None],
    display: Display,
) -> None:
    """Controls, results and report of one finished study."""
    out = options.out if len(work.studies) == 1 else options.out / study.metadata.name
    participants = work.sites(study)
    aggregator = _state_folder(state, study_children.owner_of(study), study_children.AGGREGATOR)
    known = aggregator_report.collect(aggregator)
    took_part = {record.site for record in known.sites if record.rounds}
    controls = Controls(
        work=work,
        sites=[p for p in participants if p.spec.site_name in took_part],
        plan=known.plan.encode(),
        folder=state / "studies" / study.metadata.name,
        log=options.out / "logs" / f"{study.metadata.name}.arms.log",
        records=state / "processes",
        forks=forks,
    )
    arms = []
    for name in options.arms:
        if name != "federated":
            display.say(f"{study.metadata.name}: training the {name} arm")
            arms.append(await controls.run(name))
    results = write_outcome(
        out,
        aggregator=aggregator,
        agents={
            p.spec.site_name: _state_folder(
                state, participant_children.owner_of(p), participant_children.AGENT
            )
            for p in participants
        },
        profiles={p.spec.site_name: _profile(agents[p.metadata.namespace]) for p in participants},
        arms=arms,
        peaks=kubelet.peaks(),
        peak_total=kubelet.peak_total,
    )
    if options.as_json:
        print(results.model_dump_json(by_alias=True))
    display.say(_last_line(study.metadata.name, results.metrics, out))


def _last_line(study: str, metrics: Mapping[str, float], out: Path) -> str:
    shown = [
        name
        for name in ("auc", "auc_within", "c_index", "c_index_within", "brier", "log_loss")
        if name in metrics
    ]
    values = ", ".join(f"{name} {metrics[name]:.3f}" for name in shown) or "no test metrics"
    return f"{study}: test {values}\n{study}: {out / 'report.html'}"


def _state_folder(state: Path, owner: Owner, component: str) -> Path:
    """Where the volume of a StatefulSet's only pod is."""
    return state / "volumes" / owner.namespace / f"state-{owner.child(component)}-0"


def _profile(agent: AgentState | None) -> dict[str, int | None]:
    profile = agent.profile if agent else None
    if profile is None:
        return {}
    counts = {
        "cases": profile.cases,
        "training": profile.training,
        "validation": profile.validation,
        "test": profile.test,
    }
    counts |= {f"image {image.name}": image.cases for image in profile.images}
    return counts | {f"label {label.name}": label.cases for label in profile.labels}


def _validate(obj: Object) -> None:
    """What an API server does with the CRDs' schemas."""
    model = KINDS.get(obj["kind"])
    if model is None:
        return
    try:
        model.model_validate({name: value for name, value in obj.items() if name != "status"})
    except ValidationError as error:
        raise InvalidObjectError(str(error)) from error


async def _keep(cluster: LocalCluster, folder: Path, display: Display) -> None:
    """Save the objects whenever they have changed, so that even a kill -9 of this process loses no certificate."""
    saved, full = -1, False
    while True:
        if cluster.version != saved:
            version = cluster.version
            try:
                cluster.save(folder)
                saved, full = version, False
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                if not full:
                    display.say(
                        f"No space left to write {folder}: the run waits and tries again. Free some space."
                    )
                full = True
        await asyncio.sleep(_SAVE_SECONDS)


@dataclass
class _JSONLines:
    """Progress as a JSON object a line on standard error: the state of each study whenever it has changed."""

    _said: dict[str, str] = field(default_factory=dict)

    def __call__(self, views: Sequence[StudyView]) -> None:
        for view in views:
            state = (
                view.state.model_dump(mode="json", by_alias=True, exclude={"pending"}) if view.state else None
            )
            line = json.dumps({"study": view.name, "waiting": view.waiting, "state": state})
            if self._said.get(view.name) != line:
                self._said[view.name] = line
                print(line, file=sys.stderr, flush=True)


@asynccontextmanager
async def _interruptible() -> AsyncIterator[None]:
    """SIGINT and SIGTERM cancel what is within, once; stopping in order is not interrupted by a second one."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    interrupted: list[str] = []

    def interrupt(name: str) -> None:
        if task is not None and not interrupted:
            interrupted.append(name)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt, number.name)
    try:
        yield
    except asyncio.CancelledError:
        if not interrupted:
            raise
        raise InterruptedByUserError(
            "Interrupted: everything was stopped in order, and nothing is lost.", "Go on with --resume."
        ) from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
