"""The real aggregator process, with a mark written when round 1 begins and when each round's model is there."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from benchmarks.wire import workload

from fedstudy.aggregator import __main__ as aggregator
from fedstudy.aggregator import server
from fedstudy.aggregator.engine import Change, Engine
from fedstudy.aggregator.state import State
from fedstudy.tensors import TensorFile


class MarkedEngine(Engine):
    """An engine that marks its rounds; else nothing is changed."""

    def take(self, changes: Sequence[Change]) -> None:
        """Take the steps, then mark what they have brought."""
        before = getattr(self, "state", State())
        super().take(changes)
        out = Path(os.environ["BENCH_OUT"])
        if before.round == 0 and self.state.round == 1:
            workload.mark(out, 0)
        if self.state.model_round > before.model_round:
            workload.mark(out, self.state.model_round)
        if self.state.over and not before.over and self.state.model is not None:
            _save_final(self.blobs.path(self.state.model.digest), out)


def _save_final(model: Path, out: Path) -> None:
    """The parameters as raw float32 in the order of the layers, then the word that the run is done."""
    with TensorFile(model) as file, (out / "final.f32").open("wb") as flat:
        payload = file.size - max(info.end for info in file.tensors.values())
        for name, shape in workload.layers(int(os.environ["BENCH_SIZE"])):
            for start in range(0, math.prod(shape), 1 << 20):
                count = min(1 << 20, math.prod(shape) - start)
                offset = payload + file.tensors[name].begin + 4 * start
                np.fromfile(model, dtype=np.float32, count=count, offset=offset).tofile(flat)
    (out / "done").touch()


def main() -> None:
    """Run the aggregator as its own command does."""
    serve = server.serve
    server.Engine = MarkedEngine  # type: ignore[misc]

    def started(port: int) -> None:
        path = Path(os.environ["BENCH_FOLDER"]) / "port"
        path.with_suffix(".part").write_text(str(port))
        path.with_suffix(".part").replace(path)

    aggregator.serve = lambda settings, stop: serve(settings, stop, started)
    aggregator.main()


if __name__ == "__main__":
    main()
