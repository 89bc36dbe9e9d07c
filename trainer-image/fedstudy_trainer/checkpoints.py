"""What a killed trainer goes on from: weights, optimiser, random numbers and place within a round, on disk now and then.

A checkpoint belongs to one instruction on one dataset under one release of torch: with another key it is not used, since
then going on would not give the bits of a round that nobody disturbed. One that is lost or broken costs time, nothing else.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedstudy.errors import NoSpaceError
from fedstudy.logs import log
from fedstudy.plan import Parameter, StudyPlan
from fedstudy.tensors import write_bytes
from fedstudy_trainer.data.dataset import SplitData

SHARE = 50.0
"""Saving may take a fiftieth of the time at most: a large model on a slow disk is saved less often."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """How far a round is.

    Attributes:
        steps, samples: done.
        loss: sum over the samples.
        seconds: of training so far.
    """

    steps: int = 0
    samples: int = 0
    loss: float = 0.0
    seconds: float = 0.0


class Checkpoints:
    """The one checkpoint of a trainer.

    Args:
        path: its file; the folder is made when first needed. One that outlives the process is what makes it useful.
        every: least seconds between two of them.
    """

    def __init__(self, path: Path, every: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self._every, self._clock = path, every, clock
        self._key = ""
        self._next = 0.0

    def begin(self, key: str) -> None:
        """A round begins, or is begun again."""
        self._key, self._next = key, self._clock() + self._every

    def restore(self, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Place:
        """Put both, and the random numbers, where the checkpoint of this round is; Place() where there is none."""
        device = next(network.parameters()).device
        try:
            held = torch.load(self.path, map_location="cpu", weights_only=True)
            if held["key"] != self._key:
                return Place()
            place = Place(**held["place"])
        except FileNotFoundError:
            return Place()
        except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError, ValueError) as error:
            log(_log, logging.WARNING, "checkpoint not readable", path=str(self.path), reason=str(error))
            return Place()
        network.load_state_dict(held["network"])
        optimizer.load_state_dict(held["optimizer"])
        torch.set_rng_state(held["random"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(held["random_cuda"], device)
        log(_log, logging.INFO, "goes on from a checkpoint", steps=place.steps, samples=place.samples)
        return place

    def offer(
        self, network: torch.nn.Module, optimizer: torch.optim.Optimizer, place: Callable[[], Place]
    ) -> None:
        """Save, if it is time. A disk that is full or broken is no reason to stop training."""
        start = self._clock()
        if start < self._next:
            return
        try:
            self._save(network, optimizer, place())
        except (OSError, NoSpaceError) as error:
            log(_log, logging.WARNING, "checkpoint not written", path=str(self.path), reason=str(error))
        end = self._clock()
        self._next = end + max(self._every, SHARE * (end - start))

    def _save(self, network: torch.nn.Module, optimizer: torch.optim.Optimizer, place: Place) -> None:
        device = next(network.parameters()).device
        document: dict[str, Any] = {
            "key": self._key,
            "place": vars(place),
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        if device.type == "cuda":
            document["random_cuda"] = torch.cuda.get_rng_state(device)
        buffer = io.BytesIO()
        torch.save(document, buffer)
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(self.path, buffer.getbuffer())


def key(
    plan: StudyPlan,
    instruction: str,
    model: str,
    parameters: Mapping[str, Parameter],
    cases: SplitData,
    device: torch.device,
) -> str:
    """What decides a round's bits, as one word.

    Args:
        model: digest of the model that the round starts from.
        cases: the training cases.
    """
    said = [str(plan.digest()), instruction, model, dict(parameters), str(device)]
    document = json.dumps([*said, torch.__version__, torch.get_num_threads()], sort_keys=True)
    sha = hashlib.sha256(document.encode())
    for array in (cases.presence, cases.covariates, cases.labels, cases.times, cases.events):
        sha.update(array.tobytes())
    return sha.hexdigest()
