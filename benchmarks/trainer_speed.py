"""Our trainer beside a plain PyTorch and MONAI loop that trains the same network on the same volumes; and its start-up.

Run: ``OMP_NUM_THREADS=1 python benchmarks/trainer_speed.py`` (writes the demo cohort first; ``--data FOLDER`` uses one that is
there, as ``fedstudy phantom FOLDER`` makes it). Prints a table, and writes JSON beside it.

The plain loop has what a person would write: the volumes in memory as a list (what MONAI's CacheDataset holds), a DataLoader
without workers, MONAI's dictionary transforms where there is augmentation, AdamW, gradient clipping, ``loss.item()``. The network
and its start, the order of the cases, the batches, the loss, the optimiser's settings, the number of threads and torch's
determinism are the same; without augmentation both must end with the same weights, which is checked once the plain loop's optimiser is
fused, as ours is (else a last bit becomes whole steps of Adam on some processors). The two take turns within one process;
reported are medians, in seconds of the wall and of the processor (all threads): the second is the one to look at on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, RandFlipd, RandScaleIntensityd, RandShiftIntensityd
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from fedstudy.measures import total
from fedstudy.plan import StudyPlan
from fedstudy_operator.phantom import IMAGES, idh_spec
from fedstudy_trainer.data.batches import batch_order
from fedstudy_trainer.data.config import DatasetConfig
from fedstudy_trainer.data.dataset import SiteData, load
from fedstudy_trainer.learner import network_on, prepare_torch, train
from fedstudy_trainer.networks import StudyNetwork, initial_state
from fedstudy_trainer.statistics import site_statistics

OUT = Path(__file__).parent / "results" / "trainer_speed.json"
SEED, RATE = 3, 0.002
READY = (
    "from fedstudy_trainer import session, work, learner\n"
    "from fedstudy_trainer.data import augment, batches, cache, dataset\n"
    "from fedstudy_trainer.networks import monai_nets, registry, small_cnn\n"
)
"""All that a trainer of images imports from its start to its first step."""


@dataclass(frozen=True)
class Figure:
    """Medians of one comparison: seconds of ours, of the plain form, and ours through plain (of the pairs, each taken one after the other)."""

    what: str
    ours: float
    plain: float
    ratio: float
    ours_processor: float
    plain_processor: float
    ratio_processor: float
    repeats: int


def study_plan(augmented: bool) -> StudyPlan:
    """The plan of the demo study."""
    spec = idh_spec("FedAvg", 4)
    parts = {
        name: spec[name]
        for name in ("task", "model", "preprocessing", "training", "federation", "cohort", "purpose")
    }
    changes = spec["augmentation"] if augmented else {}
    return StudyPlan.model_validate({"study": "speed", "uid": "speed", **parts, "augmentation": changes})


def site_data(plan: StudyPlan, root: Path, scratch: Path) -> SiteData:
    """A site of the cohort under the plan, its volumes preprocessed."""
    images = {
        name: f"{{participant_id}}/anat/{{participant_id}}_{suffix}.nii.gz" for name, suffix in IMAGES.items()
    }
    data = load(DatasetConfig(format="BIDS", images=images), root, plan, scratch)
    data.cases("training")
    return data


class Plain:
    """The same training as a person would write it."""

    def __init__(self, data: SiteData, plan: StudyPlan) -> None:
        self.plan, self.cases = plan, data.cases("training")
        assert self.cases.images is not None
        self.items = [
            {
                "image": torch.tensor(self.cases.images[i]),
                "presence": torch.tensor(self.cases.presence[i]),
                "covariates": torch.tensor(self.cases.covariates[i]),
                "label": int(self.cases.labels[i]),
            }
            for i in range(len(self.cases))
        ]
        self.transform = self._transform()

    def _transform(self) -> Callable[[Any], Any]:
        chosen = self.plan.augmentation
        if chosen.intensity_scale == 0:
            return lambda item: item
        changes = Compose(
            [
                RandFlipd("image", prob=chosen.flip_probability, spatial_axis=0),
                RandScaleIntensityd("image", factors=chosen.intensity_scale, prob=1.0, channel_wise=True),
                RandShiftIntensityd("image", offsets=chosen.intensity_shift, prob=1.0, channel_wise=True),
            ]
        )
        return lambda item: self._dropped(changes(dict(item)), chosen.drop_image_probability)

    def _dropped(self, item: dict[str, Any], probability: float) -> dict[str, Any]:
        keep = torch.rand(item["presence"].shape) >= probability
        return item | {
            "image": item["image"] * keep[:, None, None, None],
            "presence": item["presence"] * keep,
        }

    def train(self, network: StudyNetwork, epochs: int, *, fused: bool | None = None) -> None:
        """The loop; `fused` as AdamW has it."""
        settings = self.plan.training
        torch.manual_seed(SEED)
        own = (
            torch.Generator()
        )  # a DataLoader draws a seed that it does not use: not from the numbers for dropout
        dataset = _Mapped(self.items, self.transform)
        optimizer = torch.optim.AdamW(
            network.parameters(), RATE, weight_decay=settings.optimizer.weight_decay, fused=fused
        )
        weight = network.get_buffer("constant.class.weight")
        network.train()
        order = list(
            batch_order(len(dataset), settings.batch_size, SEED, epochs=epochs, steps=None, shuffle=True)
        )
        per_epoch = len(order) // epochs
        for epoch in range(epochs):
            batches = [indices.tolist() for indices in order[epoch * per_epoch : (epoch + 1) * per_epoch]]
            running = 0.0
            for batch in DataLoader(dataset, batch_sampler=batches, generator=own):
                optimizer.zero_grad()
                z = network(batch["image"], batch["presence"], batch["covariates"])
                logits = torch.cat([torch.zeros_like(z), z], dim=1)
                loss = cross_entropy(logits, batch["label"], weight, reduction="sum") / len(batch["label"])
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip)
                optimizer.step()
                running += loss.item() * len(batch["label"])


class _Mapped:
    """A list and a transform as a dataset."""

    def __init__(self, items: list[dict[str, Any]], transform: Callable[[Any], Any]) -> None:
        self.items, self.transform = items, transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        made: dict[str, Any] = self.transform(self.items[index])
        return made


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds of the wall and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def compared(
    what: str,
    ours: Callable[[], tuple[float, float]],
    plain: Callable[[], tuple[float, float]],
    repeats: int,
    per: int = 1,
) -> Figure:
    """Ours and plain in turns, each repeat beginning with the other one."""
    pairs: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for repeat in range(repeats):
        if repeat % 2:
            second = plain()
            pairs.append((ours(), second))
        else:
            first = ours()
            pairs.append((first, plain()))
    wall, processor = ([(a[k] / per, b[k] / per) for a, b in pairs] for k in (0, 1))
    return Figure(what, *_medians(wall), *_medians(processor), repeats)


def _medians(pairs: list[tuple[float, float]]) -> tuple[float, float, float]:
    median = statistics.median
    return median(a for a, _ in pairs), median(b for _, b in pairs), median(a / b for a, b in pairs)


def epochs_figure(augmented: bool, root: Path, scratch: Path, epochs: int, repeats: int) -> Figure:
    """Seconds of an epoch of training."""
    plan = study_plan(augmented)
    data = site_data(plan, root, scratch)
    state = initial_state(plan, total([site_statistics(data.cases("training"), plan)]))
    plain, ended = Plain(data, plan), dict[str, Any]()
    device = torch.device("cpu")

    def ours() -> tuple[float, float]:
        network = network_on(plan, state, device)
        said = {"epochs": epochs, "learning_rate": RATE, "seed": SEED}
        seconds = timed(lambda: train(network, data, plan, said) and None)
        ended.update(network.state_dict())
        return seconds

    def theirs() -> tuple[float, float]:
        network = network_on(plan, state, device)
        return timed(lambda: plain.train(network, epochs))

    ours(), theirs()  # not counted: pages and kernels become warm
    cases = len(data.cases("training"))
    what = f"an epoch of {cases} cases, " + ("augmented" if augmented else "not augmented")
    figure = compared(what, ours, theirs, repeats, epochs)
    if not augmented:
        network = network_on(plan, state, device)
        plain.train(network, epochs, fused=True)
        for name, value in network.state_dict().items():
            np.testing.assert_allclose(ended[name], value, atol=1e-4, err_msg=name)
    return figure


def start_figure(repeats: int) -> Figure:
    """Seconds from nothing to a trainer that could take its first step, against the import of torch and monai."""

    def python(code: str) -> tuple[float, float]:
        before = os.times()
        wall = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        return time.perf_counter() - wall, spent

    python(READY)  # not counted: files become warm
    python("import torch, monai")
    return compared(
        "start of a trainer of images", lambda: python(READY), lambda: python("import torch, monai"), repeats
    )


HEAD = (
    "| what | ours | plain | ratio | ours, processor | plain, processor | ratio |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)


def row(f: Figure) -> str:
    """A figure as a row of a Markdown table."""
    return (
        f"| {f.what} | {f.ours:.2f} s | {f.plain:.2f} s | {f.ratio:.3f} |"
        f" {f.ours_processor:.2f} s | {f.plain_processor:.2f} s | {f.ratio_processor:.3f} |"
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, help="a cohort that is there: what `fedstudy phantom` was given")
    parser.add_argument("--site", default="")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    prepare_torch(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = options.data
        if data is None:
            data = Path(folder) / "cohort"
            words = ["-m", "fedstudy_trainer", "phantom", str(data), "--profile", "demo"]
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        sites = sorted(p for p in (data / "data").iterdir() if p.name != "outside")
        root = data / "data" / options.site if options.site else sites[0]
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        figures = [start_figure(options.repeats)]
        print("\n".join([*HEAD, row(figures[0])]), flush=True)
        for augmented in (False, True):
            figures.append(epochs_figure(augmented, root, scratch, options.epochs, options.repeats))
            print(row(figures[-1]), flush=True)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps([asdict(f) for f in figures], indent=2) + "\n")


if __name__ == "__main__":
    main()
