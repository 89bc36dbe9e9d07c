"""What each kind of instruction asks for, done on this site's data: instruction and inputs in, tensors out.

torch is imported with the first instruction that needs it: counting a table's rows does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fedstudy import encodings
from fedstudy.errors import FedstudyError, NoSpaceError, UpdateError
from fedstudy.plan import Parameter, StudyPlan
from fedstudy.tensors import read
from fedstudy.wire import federation_pb2 as pb
from fedstudy_trainer.contribution import Contribution, Progress, Trained
from fedstudy_trainer.data.config import load_config
from fedstudy_trainer.data.dataset import SiteData, load
from fedstudy_trainer.settings import Settings

Tensors = Mapping[str, NDArray[Any]]


class Cancelled(FedstudyError):
    """The instruction is no longer wanted."""


class Worker:
    """A site's data under a plan. All its methods are slow and belong in a thread; one at a time.

    Raises:
        DataError: the dataset does not fit the plan.
    """

    def __init__(self, settings: Settings, plan: StudyPlan) -> None:
        self.plan = plan
        self._threads = settings.threads
        self._checkpoint, self._checkpoint_seconds = settings.state / "round.checkpoint", settings.checkpoint
        self.data: SiteData = load(load_config(settings.config), settings.data, plan, settings.scratch)

    def do(
        self,
        instruction: str,
        kind: pb.Kind,
        inputs: Mapping[str, Path],
        parameters: Mapping[str, Parameter],
        *,
        progress: Callable[[Progress], None],
        stop: threading.Event,
    ) -> Trained:
        """The answer to an instruction.

        Args:
            instruction: its id; a round that was begun under it is gone on with.
            inputs: tensor files by name, each named by its digest.
            progress: called after every step.
            stop: when set, the work is given up after the step at hand.

        Raises:
            Cancelled: `stop` was set.
            FedstudyError: the data, the plan or the inputs do not allow an answer.
        """

        def step(now: Progress) -> None:
            if stop.is_set():
                raise Cancelled("The instruction was cancelled.")
            progress(now)

        if kind == pb.Kind.STATISTICS:
            return self._statistics()
        if kind == pb.Kind.INITIALISE:
            return self._initialise(read(_input(inputs, "statistics")), parameters)
        if kind == pb.Kind.TRAIN:
            return self._train(instruction, _input(inputs, "model"), parameters, step)
        if kind == pb.Kind.EVALUATE:
            return self._evaluate(read(_input(inputs, "model")), str(parameters.get("split", "")))
        raise UpdateError(f"This trainer does not know instructions of kind {kind}.", "Update the trainer.")

    def forget_round(self) -> None:
        """The round that was trained is over: weights of a step in between are not kept."""
        self._checkpoint.unlink(missing_ok=True)

    def _statistics(self) -> Trained:
        from fedstudy_trainer.statistics import site_statistics

        found = site_statistics(self.data.cases("training"), self.plan)
        return Trained(found, self._counted("training"))

    def _initialise(self, statistics: Tensors, parameters: Mapping[str, Parameter]) -> Trained:
        from fedstudy_trainer.networks import initial_state

        seed = int(parameters.get("seed", self.plan.training.seed))
        return Trained(initial_state(self.plan, statistics, seed), self._counted("training"))

    def _train(
        self,
        instruction: str,
        file: Path,
        parameters: Mapping[str, Parameter],
        progress: Callable[[Progress], None],
    ) -> Trained:
        from fedstudy_trainer import learner
        from fedstudy_trainer.checkpoints import Checkpoints, key

        model = read(file)
        device = learner.prepare_torch(self._threads)
        network = learner.network_on(self.plan, model, device)
        kept = Checkpoints(self._checkpoint, self._checkpoint_seconds)
        kept.begin(key(self.plan, instruction, file.name, parameters, self.data.cases("training"), device))
        with _memory_told():
            trained = learner.train(
                network, self.data, self.plan, parameters, progress=progress, checkpoints=kept
            )
        sent = encodings.encode(trained.tensors, model, self.plan.federation.transfer)
        return replace(trained, tensors=sent)

    def _evaluate(self, model: Tensors, split: str) -> Trained:
        from fedstudy_trainer import learner

        if split not in ("validation", "test"):
            raise UpdateError(f"An evaluation is asked for on the split {split!r}, which is none.")
        network = learner.network_on(self.plan, model, learner.prepare_torch(self._threads))
        with _memory_told():
            return Trained(learner.evaluate(network, self.data, self.plan, split), self._counted(split))

    def _counted(self, split: str) -> Contribution:
        cases = self.data.cases(split)
        return Contribution(samples=len(cases), events=int((cases.events == 1).sum()))


@contextmanager
def _memory_told() -> Iterator[None]:
    """Turns torch's out-of-memory error into one that says what to do."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise NoSpaceError(
            "The GPU's memory does not hold a step of training.",
            "Lower training.batchSize or preprocessing.size, or use a larger GPU.",
        ) from error


def _input(inputs: Mapping[str, Path], name: str) -> Path:
    if name not in inputs:
        raise UpdateError(
            f"The instruction lacks its input {name}.", "Update hub and site to the same version."
        )
    return inputs[name]
