"""Checklist 35, of the status: a definition that lacks a field costs that field, not the status.

The refusals are those of a real API server 1.34, which refuses a whole apply for one field that the schema lacks, by a 500.
"""

from __future__ import annotations

from typing import Any

import pytest

from fedstudy_operator.cluster import Key, Object
from fedstudy_operator.kube.api import UnavailableError
from fedstudy_operator.kube.client import KubernetesCluster
from fedstudy_operator.kube.skew import Undeclared

KEY = Key("FederatedStudy", "hub", "glioma")
STATUS = {"observedGeneration": 1, "columns": {"round": "1/2", "sites": "2/2"}, "endpoint": "a:443"}


class OlderServer:
    """Answers as an API server whose definition lacks some fields of the status."""

    def __init__(self, *lacking: str) -> None:
        self.lacking = lacking
        self.written: list[Object] = []
        self.requests = 0

    async def request(self, method: str, path: str, *, body: Object | None = None, **_: Any) -> Object:
        self.requests += 1
        metadata = {"name": "glioma", "namespace": "hub", "uid": "u", "resourceVersion": str(self.requests)}
        obj: Object = {"apiVersion": "fedstudy.io/v1alpha1", "kind": "FederatedStudy", "metadata": metadata}
        if method == "GET":
            return obj
        assert body is not None
        for field in self.lacking:
            if self._has(body["status"], field.split(".")):
                raise UnavailableError(
                    f"PATCH {path}: failed to create typed patch object (hub/glioma; fedstudy.io/v1alpha1, "
                    f"Kind=FederatedStudy): .status.{field}: field not declared in schema (HTTP 500)"
                )
        self.written.append(body["status"])
        return {**obj, "status": body["status"]}

    def _has(self, status: Any, path: list[str]) -> bool:
        for name in path:
            if not isinstance(status, dict) or name not in status:
                return False
            status = status[name]
        return True


async def test_a_status_is_written_without_the_fields_that_the_definition_lacks() -> None:
    server = OlderServer("columns.sites", "endpoint")
    cluster = KubernetesCluster(server)  # type: ignore[arg-type]
    await cluster.patch_status(KEY, STATUS, manager="test")
    assert server.written == [{"observedGeneration": 1, "columns": {"round": "1/2"}}]


async def test_what_is_lacking_is_asked_for_once_and_an_unchanged_status_costs_no_request() -> None:
    server = OlderServer("columns")
    cluster = KubernetesCluster(server)  # type: ignore[arg-type]
    await cluster.patch_status(KEY, STATUS, manager="test")
    before = server.requests
    await cluster.patch_status(KEY, STATUS, manager="test")
    assert server.requests == before
    await cluster.patch_status(KEY, {**STATUS, "observedGeneration": 2}, manager="test")
    assert server.requests == before + 1


async def test_another_refusal_is_not_taken_for_an_older_definition() -> None:
    class Overloaded(OlderServer):
        async def request(self, method: str, path: str, *, body: Object | None = None, **_: Any) -> Object:
            if method == "GET":
                return await super().request(method, path)
            raise UnavailableError("PATCH: etcd is not there (HTTP 500)")

    cluster = KubernetesCluster(Overloaded())  # type: ignore[arg-type]
    with pytest.raises(UnavailableError, match="etcd"):
        await cluster.patch_status(KEY, STATUS, manager="test")


def test_a_refusal_that_tells_nothing_new_is_not_an_answer() -> None:
    undeclared = Undeclared()
    refusal = ".status.columns: field not declared in schema"
    assert undeclared.learn("FederatedStudy", refusal)
    assert not undeclared.learn("FederatedStudy", refusal)
    assert undeclared.without("SiteDataset", STATUS) == STATUS
