"""What all three resources share: group, version, metadata, and the strings that Kubernetes allows."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator
from pydantic.alias_generators import to_camel

from fedstudy.plan import Model

GROUP = "fedstudy.io"
VERSION = "v1alpha1"
API_VERSION: Final = "fedstudy.io/v1alpha1"

DNSLabel = Annotated[
    str, StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9\-]*[a-z0-9])?$")
]
DNSName = Annotated[
    str, StringConstraints(min_length=1, max_length=253, pattern=r"^[a-z0-9]([a-z0-9\-.]*[a-z0-9])?$")
]
Digest = Annotated[str, StringConstraints(max_length=71, pattern=r"^sha256:[0-9a-f]{64}$")]
RelativePath = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[^/\\].*$")]
Time = Annotated[
    str,
    StringConstraints(max_length=40, pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+\-]\d\d:\d\d)$"),
]
Quantity = Annotated[str, StringConstraints(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?([EPTGM]i?|Ki|k|m)?$")]
Amount = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0)] | Quantity
"""Of a resource. As Kubernetes takes it: 2, "500m", "8Gi"."""
_RESOURCE_NAME = re.compile(
    r"cpu|memory|ephemeral-storage|hugepages-[0-9]+[KMG]i"
    r"|[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?"
)
NO_RESOURCE = (
    "a resource is cpu, memory, ephemeral-storage, hugepages-*, or one with its domain (nvidia.com/gpu)"
)
"""What a container may ask for; any other name is refused by Kubernetes only when a pod is made."""
GroupId = Annotated[int, Field(ge=1, le=2**31 - 1)]


def is_device(resource: str) -> bool:
    """Whether a resource is an extended one (nvidia.com/gpu): whole, not shared, its request equal to its limit."""
    return "/" in resource and not resource.partition("/")[0].endswith("kubernetes.io")


class Metadata(BaseModel):
    """Object metadata; only what fedstudy reads. Everything else of Kubernetes is let through."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow", frozen=True)

    name: DNSLabel = Field(description="Name of the object.")
    namespace: DNSLabel = Field(default="default", description="Namespace of the object.")
    uid: str = ""
    generation: int = 1
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Resources(Model):
    """CPU, memory and extended resources of a container."""

    requests: dict[str, Amount] = Field(
        default={},
        max_length=16,
        description="Least amounts, for example cpu: 500m, memory: 2Gi, nvidia.com/gpu: 1.",
    )
    limits: dict[str, Amount] = Field(default={}, max_length=16, description="Largest amounts.")

    @field_validator("requests", "limits")
    @classmethod
    def _names(cls, amounts: dict[str, Amount]) -> dict[str, Amount]:
        for name in amounts:
            if not _RESOURCE_NAME.fullmatch(name):
                raise ValueError(f"{name!r}: {NO_RESOURCE}")
        return amounts


class Status(BaseModel):
    """Base of status models: unknown fields of later versions are let through."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")


def metadata_of(obj: dict[str, Any]) -> Metadata:
    """The metadata of an object as it came from a cluster or a file."""
    return Metadata.model_validate(obj.get("metadata") or {})
