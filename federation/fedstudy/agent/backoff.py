"""How long to wait before trying again: doubling, with jitter so that a hub that comes back is not stampeded."""

from __future__ import annotations

import random


class Backoff:
    """Waits that grow from `first` to `last` seconds, each between half and all of its step."""

    def __init__(self, first: float = 0.2, last: float = 10.0) -> None:
        self._first = first
        self._last = last
        self._step = first

    def next(self) -> float:
        """Seconds to wait now; the next wait is longer."""
        step, self._step = self._step, min(self._step * 2, self._last)
        return step * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """It worked: begin again with the shortest wait."""
        self._step = self._first
