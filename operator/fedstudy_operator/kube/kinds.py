"""The kinds that the operator touches, and where the API server serves them: no discovery, so no right to discover is needed."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from fedstudy_operator.api.meta import API_VERSION
from fedstudy_operator.cluster import Key


@dataclass(frozen=True)
class Served:
    """Where a kind is served."""

    api_version: str
    plural: str

    @property
    def group(self) -> str:
        """The API group; empty for the core."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """The version within the group."""
        return self.api_version.rpartition("/")[2]

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The URL's path of a collection, an object, or a part of one."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        parts = [root]
        if namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        parts += [
            self.plural,
            *([quote(name, safe="")] if name else []),
            *([subresource] if subresource else []),
        ]
        return "/".join(parts)


KINDS: dict[str, Served] = {
    "FederatedStudy": Served(API_VERSION, "federatedstudies"),
    "SiteParticipant": Served(API_VERSION, "siteparticipants"),
    "SiteDataset": Served(API_VERSION, "sitedatasets"),
    "Secret": Served("v1", "secrets"),
    "ConfigMap": Served("v1", "configmaps"),
    "Service": Served("v1", "services"),
    "Pod": Served("v1", "pods"),
    "PersistentVolumeClaim": Served("v1", "persistentvolumeclaims"),
    "StatefulSet": Served("apps/v1", "statefulsets"),
    "Job": Served("batch/v1", "jobs"),
    "NetworkPolicy": Served("networking.k8s.io/v1", "networkpolicies"),
    "PodDisruptionBudget": Served("policy/v1", "poddisruptionbudgets"),
    "Event": Served("events.k8s.io/v1", "events"),
    "Lease": Served("coordination.k8s.io/v1", "leases"),
}


def path_of(key: Key, subresource: str = "") -> str:
    """The URL's path of an object."""
    return KINDS[key.kind].path(key.namespace, key.name, subresource)
