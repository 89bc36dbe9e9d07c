"""CustomResourceDefinitions out of the pydantic models: structural OpenAPI, CEL rules, columns. `make crds` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from fedstudy_operator.api.dataset import SiteDataset
from fedstudy_operator.api.meta import GROUP, NO_RESOURCE, VERSION
from fedstudy_operator.api.participant import SiteParticipant
from fedstudy_operator.api.study import FederatedStudy

Schema = dict[str, Any]

NAMES: dict[type[BaseModel], tuple[str, str]] = {
    FederatedStudy: ("federatedstudies", "fstudy"),
    SiteParticipant: ("siteparticipants", "sitep"),
    SiteDataset: ("sitedatasets", "sdata"),
}
"""Kind → plural and short name."""

MAP_LISTS = {"sites": "name", "conditions": "type", "metrics": "name", "covariates": "name"}
"""Lists that are maps: field → key, so that two writers can each own an entry."""

_RESOURCE_NAMES = (
    "self.all(k, k in ['cpu', 'memory', 'ephemeral-storage'] || k.startsWith('hugepages-') || k.contains('/'))",
    NO_RESOURCE,
)
"""What is cheap enough for the API server to look at; the operator looks at the whole name."""
_CEL: dict[type[BaseModel], dict[str, list[tuple[str, str]]]] = {
    FederatedStudy: {
        "spec": [
            (
                "size(self.task.images) == 0 || has(self.preprocessing.size)",
                "preprocessing.size is required for a task with images",
            ),
            (
                "(size(self.task.images) > 0) != (self.model.network.name in ['Linear', 'MLP'])",
                "model.network.name: Linear and MLP take covariates only, all others take images",
            ),
            (
                "size(self.sites) == 0 || self.federation.minSites <= size(self.sites)",
                "federation.minSites is larger than the number of sites",
            ),
            (
                "self.federation.weights != 'Events' || self.task.type == 'Survival'",
                "federation.weights: Events belongs to a Survival task",
            ),
            (
                "self.federation.algorithm.name != 'NewtonRaphson' || (self.federation.transfer.encoding == 'Float32' && !self.federation.transfer.delta)",
                "federation.transfer is for trained models; the answers of NewtonRaphson stay exact",
            ),
            (
                "self.cohort.require.images.all(i, i in self.task.images)",
                "cohort.require.images names an image that task.images does not",
            ),
        ],
        "spec.task": [
            (
                "self.type != 'Classification' || (has(self.target.label) && has(self.target.classes))",
                "target.label and target.classes are required for type Classification",
            ),
            (
                "self.type != 'Classification' || (!has(self.target.time) && !has(self.target.event))",
                "target.time and target.event do not belong to type Classification",
            ),
            (
                "self.type != 'Survival' || (has(self.target.time) && has(self.target.event))",
                "target.time and target.event are required for type Survival",
            ),
            (
                "self.type != 'Survival' || (!has(self.target.label) && !has(self.target.classes))",
                "target.label and target.classes do not belong to type Survival",
            ),
            (
                "size(self.images) > 0 || size(self.covariates) > 0",
                "images and covariates are both empty: there is nothing to learn from",
            ),
            (
                "!has(self.loss) || (self.loss == 'CrossEntropy') == (self.type == 'Classification')",
                "loss does not belong to the task's type",
            ),
            (
                "self.classWeighting == 'Uniform' || self.type == 'Classification'",
                "classWeighting belongs to type Classification",
            ),
            ("self.images.all(i, self.images.exists_one(j, j == i))", "images names an image twice"),
        ],
        "spec.task.target": [
            (
                "!has(self.classes) || self.classes.all(c, self.classes.exists_one(d, d == c))",
                "target.classes names a class twice",
            ),
        ],
        "spec.aggregator.resources.requests": [_RESOURCE_NAMES],
        "spec.aggregator.resources.limits": [_RESOURCE_NAMES],
        "spec.training": [
            (
                "has(self.localEpochs) != has(self.localSteps)",
                "exactly one of localEpochs and localSteps is required",
            )
        ],
        "spec.federation.stopWhen": [
            ("has(self.reaches) || has(self.patience)", "one of reaches and patience is required")
        ],
    },
    SiteParticipant: {
        "spec": [
            (
                "self.siteName == oldSelf.siteName",
                "siteName cannot be changed: delete the SiteParticipant and make another",
            )
        ],
        "spec.study": [
            ("has(self.__namespace__) != has(self.hub)", "exactly one of namespace and hub is required")
        ],
        "spec.approval": [
            ("has(self.planDigest) != has(self.mode)", "exactly one of planDigest and mode is required")
        ],
        "spec.trainer.resources.requests": [_RESOURCE_NAMES],
        "spec.trainer.resources.limits": [_RESOURCE_NAMES],
        "spec.trainer.scratch": [
            (
                "!has(self.claimName) || !has(self.sizeLimit)",
                "at most one of claimName and sizeLimit is allowed",
            )
        ],
    },
    SiteDataset: {
        "spec": [
            ("!self.table.split('/').exists(p, p == '..')", "table leads out of the volume ('..')"),
            (
                "self.images.all(i, !self.images[i].split('/').exists(p, p == '..'))",
                "images: a path leads out of the volume ('..')",
            ),
        ],
        "spec.volume": [
            (
                "!has(self.subPath) || !self.subPath.split('/').exists(p, p == '..')",
                "subPath leads out of the volume ('..')",
            )
        ],
    },
}

_READY = ".status.conditions[?(@.type=='Ready')]"
_COLUMNS: dict[type[BaseModel], list[tuple[str, str, str, int]]] = {
    FederatedStudy: [
        ("Ready", "string", f"{_READY}.status", 0), ("Reason", "string", f"{_READY}.reason", 0),
        ("Round", "string", ".status.columns.round", 0), ("Sites", "string", ".status.columns.sites", 0),
        ("Metric", "string", ".status.columns.metric", 0), ("Age", "date", ".metadata.creationTimestamp", 0),
        ("Algorithm", "string", ".spec.federation.algorithm.name", 1), ("Endpoint", "string", ".status.endpoint", 1),
        ("Plan", "string", ".status.planDigest", 1),
    ],
    SiteParticipant: [
        ("Ready", "string", f"{_READY}.status", 0), ("Reason", "string", f"{_READY}.reason", 0),
        ("Study", "string", ".spec.study.name", 0), ("Round", "integer", ".status.round", 0),
        ("Age", "date", ".metadata.creationTimestamp", 0),
        ("Site", "string", ".spec.siteName", 1), ("Dataset", "string", ".spec.datasetRef", 1), ("CertExpires", "string", ".status.certificate.notAfter", 1),
    ],
    SiteDataset: [
        ("Ready", "string", f"{_READY}.status", 0), ("Reason", "string", f"{_READY}.reason", 0),
        ("Cases", "integer", ".status.profile.cases", 0), ("Age", "date", ".metadata.creationTimestamp", 0),
        ("Claim", "string", ".spec.volume.persistentVolumeClaim", 1),
    ],
}  # fmt: skip


def definition(model: type[BaseModel]) -> Schema:
    """The CustomResourceDefinition of one kind."""
    plural, short = NAMES[model]
    root = model.model_json_schema(by_alias=True)
    schema = _structural(root, root.get("$defs", {}))
    schema["properties"]["metadata"] = {"type": "object"}
    schema["required"] = ["spec"]
    # No default within a status: what the operator leaves out is left out, so that a status is compared as it was written. But a
    # resource is behind its spec from its first moment on, before the operator has seen it: GitOps tools wait.
    schema["properties"]["status"] = {
        **_without_defaults(schema["properties"]["status"]),
        "default": {"observedGeneration": 0},
    }
    for path, rules in _CEL[model].items():
        _at(schema, path)["x-kubernetes-validations"] = [
            {"rule": rule, "message": message} for rule, message in rules
        ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": model.__name__, "listKind": f"{model.__name__}List", "plural": plural,
                "singular": model.__name__.lower(), "shortNames": [short], "categories": ["fedstudy"],
            },
            "versions": [{
                "name": VERSION, "served": True, "storage": True,
                "schema": {"openAPIV3Schema": schema},
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": name, "type": kind, "jsonPath": path, **({"priority": wide} if wide else {})}
                    for name, kind, path, wide in _COLUMNS[model]
                ],
            }],
        },
    }  # fmt: skip


def write_all(folder: Path) -> list[Path]:
    """Write `<plural>.yaml` for each kind and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for model, (plural, _) in NAMES.items():
        path = folder / f"{GROUP}_{plural}.yaml"
        text = yaml.safe_dump(definition(model), sort_keys=False, width=120, allow_unicode=True)
        path.write_text(
            "# Generated by `make crds` from operator/fedstudy_operator/api. Do not edit.\n" + text,
            encoding="utf-8",
        )
        paths.append(path)
    return paths


def _without_defaults(schema: Schema) -> Schema:
    result = {word: value for word, value in schema.items() if word != "default"}
    if "properties" in result:
        result["properties"] = {name: _without_defaults(part) for name, part in result["properties"].items()}
    if isinstance(result.get("items"), dict):
        result["items"] = _without_defaults(result["items"])
    return result


def _at(schema: Schema, path: str) -> Schema:
    for part in path.split("."):
        schema = schema["properties"][part]
    return schema


def _structural(node: Schema, defs: dict[str, Schema]) -> Schema:
    """Flatten $ref, nullable unions, constants and exclusive bounds into what a structural schema may hold."""
    node = _resolved(node, defs)
    if "anyOf" in node:
        return _union(node, defs)
    if "const" in node:
        return _described(node, {"type": "string", "enum": [node["const"]]})
    if "enum" in node:
        return _described(node, {"type": "string", "enum": node["enum"]}, keep_default=True)
    kind = node.get("type")
    result: Schema = {"type": kind}
    if kind == "object":
        result |= _object(node, defs)
    elif kind == "array":
        result |= {"items": _structural(node["items"], defs)}
    for word in (
        "minLength",
        "maxLength",
        "pattern",
        "minItems",
        "maxItems",
        "minimum",
        "maximum",
        "maxProperties",
    ):
        if word in node:
            result[word] = node[word]
    for word, plain in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if word in node:
            result |= {plain: node[word], word: True}
    if kind == "integer":
        result["format"] = "int64"
    return _described(node, result, keep_default=True)


def _object(node: Schema, defs: dict[str, Schema]) -> Schema:
    if "properties" not in node:
        values = node.get("additionalProperties") or next(iter(node["patternProperties"].values()))
        return {"additionalProperties": _structural(values, defs)}
    result: Schema = {"properties": {}}
    for name, field in node["properties"].items():
        result["properties"][name] = _structural(field, defs)
        if name in MAP_LISTS and result["properties"][name].get("type") == "array":
            result["properties"][name] |= {
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": [MAP_LISTS[name]],
            }
    if node.get("required"):
        result["required"] = node["required"]
    return result


def _union(node: Schema, defs: dict[str, Schema]) -> Schema:
    """X | None is X, unset; int | str is int-or-string; anything wider is any value."""
    options = [option for option in node["anyOf"] if option.get("type") != "null"]
    if len(options) == 1:
        merged = _structural({**_resolved(options[0], defs), **_keep(node)}, defs)
        merged.pop("default", None)
        return merged
    kinds = {option.get("type") for option in options}
    if kinds == {"integer", "number", "string"}:
        text = next(option for option in options if option["type"] == "string")
        bounds = {name: text[name] for name in ("pattern", "maxLength") if name in text}
        return _described(node, {"x-kubernetes-int-or-string": True, **bounds})
    return _described(node, {"x-kubernetes-preserve-unknown-fields": True})


def _resolved(node: Schema, defs: dict[str, Schema]) -> Schema:
    while "$ref" in node:
        node = {**defs[node["$ref"].rsplit("/", 1)[1]], **{k: v for k, v in node.items() if k != "$ref"}}
    return node


def _keep(node: Schema) -> Schema:
    return {
        word: node[word]
        for word in ("description", "maxItems", "minItems", "maxLength", "minLength")
        if word in node
    }


def _described(node: Schema, result: Schema, *, keep_default: bool = False) -> Schema:
    if "description" in node:
        result = {"description": " ".join(node["description"].split()), **result}
    if keep_default and "default" in node and node["default"] is not None:
        result["default"] = _without_nulls(node["default"])
    return result


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value
