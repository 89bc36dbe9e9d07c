"""The pods of our children as the watch shows them: why one does not run is asked in most passes, and need not be asked of the API server."""

from __future__ import annotations

from collections.abc import Mapping
from sys import intern

from fedstudy_operator.children.common import PARTICIPANT, STUDY
from fedstudy_operator.cluster import Key, Object
from fedstudy_operator.kube.memory import Packed

_OWNERS = (STUDY, PARTICIPANT)
_METADATA = ("name", "namespace", "uid", "resourceVersion", "labels", "ownerReferences", "deletionTimestamp")
Owner = tuple[str, str, str]
"""Namespace, label, and its value."""


class Pods:
    """What is there, by owner: who a pod is, and its status."""

    def __init__(self) -> None:
        self._packed = Packed()
        self._of: dict[Owner, set[str]] = {}
        """Owner → names of its pods."""

    def saw(self, pod: Object) -> None:
        """The watch shows a pod."""
        metadata = pod["metadata"]
        for owner in _owners(metadata):
            self._of.setdefault(owner, set()).add(intern(metadata["name"]))
        kept = {name: metadata[name] for name in _METADATA if name in metadata}
        self._packed.put(_key(metadata), {"metadata": kept, "status": pod.get("status") or {}})

    def gone(self, pod: Object) -> None:
        """The watch shows that a pod is there no more."""
        metadata = pod["metadata"]
        self._packed.drop(_key(metadata))
        for owner in _owners(metadata):
            names = self._of.get(owner, set())
            names.discard(metadata["name"])
            if not names:
                self._of.pop(owner, None)

    def find(self, namespace: str, labels: Mapping[str, str]) -> list[Object] | None:
        """The pods with all of these labels, by name; None where the labels name no owner, and so cannot be looked up."""
        owners = [(namespace, label, labels[label]) for label in _OWNERS if label in labels]
        if not owners:
            return None
        names = sorted(self._of.get(owners[0], ()))
        found = [self._packed.get(Key("Pod", namespace, name)) for name in names]
        return [pod for pod in found if pod is not None and _has(pod, labels)]


def _owners(metadata: Object) -> list[Owner]:
    labels = metadata.get("labels") or {}
    return [(metadata["namespace"], name, intern(labels[name])) for name in _OWNERS if name in labels]


def _key(metadata: Object) -> Key:
    return Key("Pod", metadata["namespace"], metadata["name"])


def _has(pod: Object, labels: Mapping[str, str]) -> bool:
    return labels.items() <= (pod["metadata"].get("labels") or {}).items()
