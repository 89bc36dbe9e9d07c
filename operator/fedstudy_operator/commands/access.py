"""How a person's commands reach a cluster: their kubeconfig, one API client, and errors that say what to do."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from kubernetes.aio import config

from fedstudy.errors import ConnectionLostError, FedstudyError, ManifestError, RefusedError
from fedstudy_operator.cluster import ConflictError, InvalidObjectError, Key, NotFoundError, Object
from fedstudy_operator.commands.where import Where
from fedstudy_operator.kube.api import Api, ForbiddenError, UnavailableError, connect
from fedstudy_operator.kube.kinds import KINDS, path_of

APPLY = "application/apply-patch+yaml"
SHORT = {"FederatedStudy": "fstudy", "SiteParticipant": "sitep", "SiteDataset": "sdata"}


@dataclass(frozen=True)
class Access:
    """An open way to a cluster.

    Attributes:
        namespace: the one that is meant where nothing else is said.
    """

    api: Api = field(repr=False)
    where: Where
    namespace: str

    async def get(self, kind: str, name: str) -> Object:
        """An object of the namespace.

        Raises:
            ManifestError: there is none.
        """
        try:
            return await self.api.request("GET", path_of(Key(kind, self.namespace, name)))
        except NotFoundError:
            listed = f"kubectl get {SHORT.get(kind, kind.lower())} --namespace {self.namespace}"
            raise ManifestError(
                f"There is no {kind} {name} in the namespace {self.namespace}.", f"See `{listed}`."
            ) from None

    async def find(self, kind: str, name: str) -> Object | None:
        """An object of the namespace, or None."""
        try:
            return await self.api.request("GET", path_of(Key(kind, self.namespace, name)))
        except NotFoundError:
            return None

    async def list(
        self, kind: str, labels: Mapping[str, str] | None = None, *, everywhere: bool = False
    ) -> list[Object]:
        """Objects of the namespace, or of all; by namespace and name."""
        query = {"labelSelector": ",".join(f"{k}={v}" for k, v in (labels or {}).items())}
        path = KINDS[kind].path(None if everywhere else self.namespace)
        items = (await self.api.request("GET", path, query=query)).get("items") or []
        for item in items:  # lists leave out what their items are
            item.setdefault("kind", kind)
            item.setdefault("apiVersion", KINDS[kind].api_version)
        return sorted(items, key=lambda o: (o["metadata"].get("namespace", ""), o["metadata"]["name"]))

    async def apply(self, obj: Object, manager: str, *, force: bool = False) -> Object:
        """Server-side apply under a manager of a command's own."""
        key = Key(obj["kind"], self.namespace, obj["metadata"]["name"])
        query = {"fieldManager": manager, "force": str(force).lower()}
        return await self.api.request("PATCH", path_of(key), query=query, body=obj, content_type=APPLY)

    async def merge(self, kind: str, name: str, patch: Object) -> Object:
        """A JSON merge patch."""
        return await self.api.request(
            "PATCH",
            path_of(Key(kind, self.namespace, name)),
            query={"fieldManager": "kubectl-fedstudy"},
            body=patch,
            content_type="application/merge-patch+json",
        )


@asynccontextmanager
async def access(where: Where) -> AsyncIterator[Access]:
    """Reach the cluster for the length of the block; what goes wrong in it comes out as errors with a remedy."""
    connection = await connect(_kubeconfig(where), where.context or None)
    api = Api(connection)
    try:
        yield Access(api, where, where.namespace or _namespace(where))
    except (NotFoundError, ConflictError, InvalidObjectError, ForbiddenError, UnavailableError) as error:
        raise told(error) from error
    finally:
        await api.close()


def told(error: Exception) -> FedstudyError:
    """An error of the API server in the terms of the command line."""
    text = str(error)
    match error:
        case ForbiddenError():
            return RefusedError(
                f"The cluster refuses: {text}", "Ask its administrator for that right (docs/rbac.md)."
            )
        case UnavailableError():
            return ConnectionLostError(
                f"The cluster does not answer: {text}", "Check --context and the network."
            )
        case ConflictError():
            return RefusedError(
                f"Somebody else holds this: {text}",
                "Look again and repeat, or change it where it is kept (GitOps).",
            )
        case NotFoundError():
            return ManifestError(
                f"The cluster does not have it: {text}",
                "Check the name, the namespace, and that fedstudy's CRDs are installed.",
            )
    return ManifestError(f"The cluster does not take it: {text}", "Correct the named field.")


def _kubeconfig(where: Where) -> str | None:
    """The kubeconfig that is meant; the client itself looks at the environment only once, when it is loaded."""
    return where.kubeconfig or os.environ.get("KUBECONFIG") or None


def _namespace(where: Where) -> str:
    """The namespace of the kubeconfig's context."""
    try:
        contexts, active = config.list_kube_config_contexts(_kubeconfig(where))
    except (config.ConfigException, OSError):
        return "default"
    chosen: Any = (
        next((c for c in contexts if c["name"] == where.context), active) if where.context else active
    )
    return str(((chosen or {}).get("context") or {}).get("namespace") or "default")


__all__ = ["APPLY", "Access", "access", "told"]
