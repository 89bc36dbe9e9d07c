"""Which cluster a person means. Apart from the rest, so that commands that need no cluster do not load its client."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Where:
    """Which cluster and namespace a person means; what is empty is as kubectl has it."""

    namespace: str = ""
    context: str = ""
    kubeconfig: str = ""

    @property
    def words(self) -> list[str]:
        """The same for kubectl."""
        pairs = (
            ("--namespace", self.namespace),
            ("--context", self.context),
            ("--kubeconfig", self.kubeconfig),
        )
        return [word for name, value in pairs if value for word in (name, value)]
