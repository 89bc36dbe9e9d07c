"""Training and evaluation of one site's model: the loop that everything else of the trainer serves.

The same weights, data, parameters and number of threads give the same bits. The optimiser starts afresh in every round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstudy.errors import DataError, UpdateError
from fedstudy.measures.sums import Statistics
from fedstudy.plan import Augmentation, OptimizerName, Parameter, Precision, StudyPlan
from fedstudy_trainer.algorithms import LocalAlgorithm, local_algorithm
from fedstudy_trainer.checkpoints import Checkpoints, Place
from fedstudy_trainer.contribution import Contribution, Progress, Trained
from fedstudy_trainer.data.batches import Batch
from fedstudy_trainer.data.dataset import SplitData
from fedstudy_trainer.networks import StudyNetwork, build, load_state, weights
from fedstudy_trainer.networks.determinism import make_deterministic
from fedstudy_trainer.tasks import Task, make_task
from fedstudy_trainer.tasks.base import empty_outputs

TRAINING = "training"
_NO_AUGMENTATION = Augmentation()
_IMAGES_AT_ONCE, _ROWS_AT_ONCE = 8, 4096


class TrainingDiverged(UpdateError):
    """The loss or a weight is no longer a finite number."""


class Data(Protocol):
    """The data that a model learns from: `fedstudy_trainer.data.dataset.SiteData`, or several of them as one."""

    def cases(self, split: str) -> SplitData:
        """The cases of a split."""
        ...

    def batches(
        self,
        split: str,
        batch_size: int,
        seed: int,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        augment: Augmentation | None = None,
        shuffle: bool = True,
        skip: int = 0,
    ) -> Iterator[Batch]:
        """Batches of a split; see `SiteData.batches`."""
        ...


def prepare_torch(threads: int) -> torch.device:
    """Make this process deterministic and choose its device: CUDA if there is one."""
    torch.set_num_threads(max(1, threads))
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    return best_device()


def best_device() -> torch.device:
    """CUDA if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def network_on(plan: StudyPlan, state: Mapping[str, NDArray[Any]], device: torch.device) -> StudyNetwork:
    """The plan's network with a model's tensors, on a device.

    Raises:
        PlanError: the network does not fit the plan.
        UpdateError: the tensors do not fit the network.
    """
    with torch.random.fork_rng(devices=[]):
        network = build(plan)
    load_state(network, state)
    if device.type == "cuda":
        make_deterministic(network)
    return network.to(device)


def train(
    network: StudyNetwork,
    data: Data,
    plan: StudyPlan,
    parameters: Mapping[str, Parameter],
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    strata: NDArray[np.int64] | None = None,
    checkpoints: Checkpoints | None = None,
) -> Trained:
    """One round at one site: descend the local loss, or answer what the algorithm answers instead.

    Args:
        network: with the shared model loaded (`network_on`); trained in place, on its device.
        parameters: `learning_rate`, `seed`, and `epochs` or `steps`.
        progress: called after every step; may raise to stop the round.
        strata: [n] stratum of each training case, where the data are of several sites.
        checkpoints: where the round is saved now and then, and gone on from; begun for this round.

    Raises:
        DataError: there is no training case.
        TrainingDiverged: the loss or a weight is not finite any more; the message names the step.
    """
    cases = data.cases(TRAINING)
    if len(cases) == 0:
        raise DataError("The site has no training case.", "Check the dataset's split column and its target.")
    start = time.monotonic()
    algorithm = local_algorithm(plan)
    mine = Contribution(samples=len(cases), events=int(np.count_nonzero(cases.events == 1)))
    answer = algorithm.answer(network, cases)
    if answer is not None:
        return Trained(answer, replace(mine, steps=1, seconds=time.monotonic() - start))
    task = make_task(plan, network, cases.labels, strata)
    devices = [next(network.parameters()).device]
    with torch.random.fork_rng(devices=[device for device in devices if device.type == "cuda"]):
        torch.manual_seed(int(parameters["seed"]))
        done = _descend(network, data, plan, parameters, task, algorithm, progress, checkpoints)
    state = weights(network)
    broken = [name for name, array in state.items() if not np.isfinite(array).all()]
    if broken:
        raise _diverged(f"The weights {broken[0]} are not finite after step {done.steps}")
    return Trained(state, replace(mine, steps=done.steps, loss=done.mean_loss, seconds=done.seconds))


def evaluate(network: StudyNetwork, data: Data, plan: StudyPlan, split: str) -> Statistics:
    """The site's share of the evaluation of a model on a split; a split without cases gives zeros.

    Raises:
        UpdateError: the model's outputs are not finite.
    """
    task = make_task(plan, network, data.cases(TRAINING).labels)
    return task.statistics(predict(network, data, plan, split), data.cases(split))


def predict(network: StudyNetwork, data: Data, plan: StudyPlan, split: str) -> NDArray[np.float64]:
    """Outputs [n, O] of a model on a split's n cases, in their order; float32 arithmetic whatever the plan's precision."""
    at_once = _IMAGES_AT_ONCE if plan.task.images else _ROWS_AT_ONCE
    network.eval()
    device = next(network.parameters()).device
    outputs = [empty_outputs(network.shape.outputs)]
    with torch.no_grad():
        for batch in data.batches(split, at_once, 0, epochs=1, shuffle=False):
            outputs.append(_forward(network, on(batch, device)).double().cpu().numpy())
    return np.concatenate(outputs)


def on(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    if device.type == "cpu":
        return batch
    parts = {name: value.to(device) for name, value in vars(batch).items() if value is not None}
    return replace(batch, **parts)


@dataclass
class _Tally:
    """Sums over the steps of a round."""

    total: int
    started: float
    samples: int = 0
    steps: int = 0
    loss: float = 0.0

    def add(self, loss: float, samples: int) -> Progress:
        self.steps += 1
        self.samples += samples
        self.loss += loss * samples
        rate = self.samples / max(1e-9, self.seconds)
        left = max(0, self.total - self.samples) / rate
        return Progress(self.samples, self.total, self.mean_loss, rate, left)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def place(self) -> Place:
        return Place(self.steps, self.samples, self.loss, self.seconds)

    @property
    def mean_loss(self) -> float:
        return self.loss / max(1, self.samples)


def _descend(
    network: StudyNetwork,
    data: Data,
    plan: StudyPlan,
    parameters: Mapping[str, Parameter],
    task: Task,
    algorithm: LocalAlgorithm,
    progress: Callable[[Progress], None],
    checkpoints: Checkpoints | None,
) -> _Tally:
    """All steps of a round, or those after its checkpoint."""
    network.train()
    trainable = [p for p in network.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in trainable]
    optimizer = _optimizer(plan, trainable, float(parameters["learning_rate"]))
    device = trainable[0].device
    held = checkpoints.restore(network, optimizer) if checkpoints is not None else Place()
    tally = _Tally(
        _samples(plan, parameters, len(data.cases(TRAINING))),
        time.monotonic() - held.seconds,
        held.samples,
        held.steps,
        held.loss,
    )
    for batch in _batches(data, plan, parameters, held.steps):
        batch = on(batch, device)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(
            device.type, torch.bfloat16, enabled=plan.training.precision is Precision.BFLOAT16
        ):
            outputs = _forward(network, batch)
        loss = task.loss(outputs, batch)
        penalty = algorithm.penalty(trainable, start)
        objective = loss if penalty is None else loss + penalty
        objective.backward()  # type: ignore[no-untyped-call]
        if plan.training.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(trainable, plan.training.gradient_clip)
        value = float(loss.detach())
        if not np.isfinite(value) or not np.isfinite(float(objective.detach())):
            raise _diverged(f"The loss is {value} in step {tally.steps + 1}")
        optimizer.step()
        now = tally.add(value, len(batch))
        if checkpoints is not None:
            checkpoints.offer(network, optimizer, tally.place)
        progress(now)
    return tally


def _forward(network: StudyNetwork, batch: Batch) -> Tensor:
    outputs: Tensor = network(batch.images, batch.presence, batch.covariates)
    return outputs


def _batches(data: Data, plan: StudyPlan, parameters: Mapping[str, Parameter], skip: int) -> Iterator[Batch]:
    epochs, steps = parameters.get("epochs"), parameters.get("steps")
    changed = plan.augmentation != _NO_AUGMENTATION
    return data.batches(
        TRAINING,
        plan.training.batch_size,
        int(parameters["seed"]),
        epochs=None if epochs is None else int(epochs),
        steps=None if steps is None else int(steps),
        augment=plan.augmentation if changed else None,
        skip=skip,
    )


def _samples(plan: StudyPlan, parameters: Mapping[str, Parameter], cases: int) -> int:
    if "steps" in parameters:
        return int(parameters["steps"]) * min(plan.training.batch_size or cases, cases)
    return int(parameters.get("epochs", 1)) * cases


def _optimizer(plan: StudyPlan, trainable: list[torch.nn.Parameter], rate: float) -> torch.optim.Optimizer:
    chosen = plan.training.optimizer
    if chosen.name is OptimizerName.SGD:
        return torch.optim.SGD(trainable, rate, momentum=chosen.momentum, weight_decay=chosen.weight_decay)
    kind = torch.optim.Adam if chosen.name is OptimizerName.ADAM else torch.optim.AdamW
    # Fused: one pass over all weights instead of a dozen calls for each tensor; a twentieth of a small network's step.
    return kind(trainable, rate, weight_decay=chosen.weight_decay, fused=True)


def _diverged(what: str) -> TrainingDiverged:
    return TrainingDiverged(
        f"Training diverged: {what}.",
        "Lower training.optimizer.learningRate, or set training.gradientClip.",
    )
