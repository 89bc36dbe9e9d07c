"""What all three resources share: group, version, metadata, and the strings that Kubernetes allows."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
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
Quantity = Annotated[str, StringConstraints(max_length=32, pattern=r"^[0-9.]+([EPTGMk]i?|m)?$")]


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

    requests: dict[str, int | float | str] = Field(
        default={},
        max_length=16,
        description="Least amounts, for example cpu: 500m, memory: 2Gi, nvidia.com/gpu: 1.",
    )
    limits: dict[str, int | float | str] = Field(default={}, max_length=16, description="Largest amounts.")


class Status(BaseModel):
    """Base of status models: unknown fields of later versions are let through."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")


def metadata_of(obj: dict[str, Any]) -> Metadata:
    """The metadata of an object as it came from a cluster or a file."""
    return Metadata.model_validate(obj.get("metadata") or {})
