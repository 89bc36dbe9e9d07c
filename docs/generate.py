"""Writes what the documents take from the code: the tables of fields, parameters, networks, reasons and rights.

    python docs/generate.py

A document asks for a table by a pair of comments, `<!-- generated: NAME -->` and `<!-- end -->`, and for a file of the
repository by `<!-- file: PATH -->` and `<!-- end -->`; what stands between them is replaced. A test regenerates and compares, so a document cannot say other than the code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from fedstudy import plan
from fedstudy.aggregator.algorithms import cyclical, fedavg, fedprox, newton, trimmed_mean
from fedstudy.wire.admin import DatasetPolicy
from fedstudy_operator.api import Reason, dataset, participant, study

DOCS = Path(__file__).parent
CHARTS = DOCS.parent / "charts"
BLOCK = re.compile(r"(<!-- (generated|file): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
LANGUAGES = {".py": "python", ".toml": "toml", ".yaml": "yaml"}

MODELS: Mapping[str, tuple[type[BaseModel], str]] = {
    "study": (study.FederatedStudySpec, "spec"),
    "study.site": (study.StudySite, "spec.sites[]"),
    "task": (plan.Task, "spec.task"),
    "target": (plan.Target, "spec.task.target"),
    "covariate": (plan.Covariate, "spec.task.covariates[]"),
    "network": (plan.Network, "spec.model.network"),
    "preprocessing": (plan.Preprocessing, "spec.preprocessing"),
    "augmentation": (plan.Augmentation, "spec.augmentation"),
    "training": (plan.Training, "spec.training"),
    "optimizer": (plan.Optimizer, "spec.training.optimizer"),
    "federation": (plan.Federation, "spec.federation"),
    "algorithm": (plan.Algorithm, "spec.federation.algorithm"),
    "transfer": (plan.Transfer, "spec.federation.transfer"),
    "stopWhen": (plan.StopWhen, "spec.federation.stopWhen"),
    "cohort": (plan.Cohort, "spec.cohort"),
    "requirement": (plan.Requirement, "spec.cohort.require"),
    "dataset": (dataset.SiteDatasetSpec, "spec"),
    "volume": (dataset.Volume, "spec.volume"),
    "policy": (DatasetPolicy, "spec.policy"),
    "participant": (participant.SiteParticipantSpec, "spec"),
    "approval": (participant.ApprovalSpec, "spec.approval"),
    "trainer": (participant.TrainerSpec, "spec.trainer"),
    "parameters.FedAvg": (fedavg.FedAvg.Parameters, ""),
    "parameters.FedProx": (fedprox.FedProx.Parameters, ""),
    "parameters.CyclicalWeightTransfer": (cyclical.CyclicalWeightTransfer.Parameters, ""),
    "parameters.NewtonRaphson": (newton.NewtonRaphson.Parameters, ""),
    "parameters.TrimmedMean": (trimmed_mean.TrimmedMean.Parameters, ""),
}
"""Name of a table → the model whose fields it lists, and where in a manifest that model stands."""


def fields(model: type[BaseModel], where: str) -> str:
    """A model's fields as a table: name, value, default, meaning."""
    schema = model.model_json_schema(by_alias=True)
    rows = []
    for name, field in model.model_fields.items():
        alias = field.alias or name
        node = schema["properties"][alias]
        default = "**required**" if field.is_required() else _default(node.get("default"))
        meaning = field.description or ""
        rows.append((f"`{alias}`", _value(node, schema), default, meaning))
    title = f"Fields of `{where}`:\n\n" if where else ""
    return title + table(("field", "value", "default", "meaning"), rows)


def networks() -> str:
    """The allow-list of networks, those with the same arguments on one row."""
    from fedstudy_trainer.networks.registry import ARCHITECTURES

    families: dict[str, list[str]] = {}
    for name, architecture in ARCHITECTURES.items():
        arguments = ", ".join(
            f"`{key}: {json.dumps(a.default)}`" for key, a in sorted(architecture.arguments.items())
        )
        kind = (
            f"images of at least {architecture.smallest} voxels a side"
            if architecture.smallest
            else "covariates only"
        )
        families.setdefault(f"{kind}\0{arguments or 'none'}", []).append(f"`{name}`")
    rows = [(", ".join(names), *key.split("\0")) for key, names in families.items()]
    return table(("network", "takes", "arguments with their defaults"), rows)


def reasons() -> str:
    """Every reason of a condition and what it means."""
    return table(("reason", "meaning"), [(f"`{r.value}`", str(getattr(r, "meaning"))) for r in Reason])  # noqa: B009 - set by __new__


def rights(chart: str, part: str) -> str:
    """What a chart lets its operator or people do, from the file that its roles are made from."""
    rules = yaml.safe_load((CHARTS / chart / "files" / "rules.yaml").read_text(encoding="utf-8"))[part]
    head = ("group", "resources", "verbs", "why")
    if isinstance(rules, list):
        return table(head, [_right(rule) for rule in rules])
    rows = [(f"`{role}`", *_right(rule)) for role, found in rules.items() for rule in found]
    return table(("role", *head), rows)


def _right(rule: Mapping[str, Any]) -> tuple[str, ...]:
    groups = ", ".join(f"`{group}`" if group else "core" for group in rule["apiGroups"])
    verbs = ", ".join(rule["verbs"])
    if "namespaced" in rule:
        verbs += f"; in named namespaces also {', '.join(rule['namespaced'])}"
    return groups, ", ".join(f"`{name}`" for name in rule["resources"]), verbs, rule["why"]


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return (
        "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        + "\n"
    )


TABLES: Mapping[str, Callable[[], str]] = {
    "networks": networks,
    "reasons": reasons,
    **{
        f"rights.{chart}.{part}": partial(rights, chart, part)
        for chart, part in (
            ("fedstudy-hub", "operator"),
            ("fedstudy-hub", "people"),
            ("fedstudy-site", "operator"),
            ("fedstudy-site", "people"),
            ("fedstudy-site", "hub"),
        )
    },
    **{name: partial(fields, model, where) for name, (model, where) in MODELS.items()},
}


def regenerated(text: str) -> str:
    """A document with its tables as the code has them now.

    Raises:
        KeyError: it asks for a table that is not known.
    """

    def filled(found: re.Match[str]) -> str:
        head, what, name, end = found.groups()
        return head + (TABLES[name]() if what == "generated" else listing(DOCS / name)) + end

    return BLOCK.sub(filled, text)


def listing(path: Path) -> str:
    """A file as a block of code."""
    return f"```{LANGUAGES[path.suffix]}\n{path.read_text(encoding='utf-8').rstrip()}\n```\n"


def _default(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, dict):
        return "its parts' defaults" if value else "`{}`"
    return f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`" if value else '`""`'


def _value(node: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What may be written, in a few words."""
    if "$ref" in node:
        return _value(schema["$defs"][node["$ref"].rsplit("/", 1)[1]], schema)
    if "anyOf" in node:
        options = [_value(option, schema) for option in node["anyOf"] if option.get("type") != "null"]
        return (
            " or ".join(dict.fromkeys(options)) if len(options) < 4 else "number, text, or `true` or `false`"
        )
    if "enum" in node:
        return " or ".join(f"`{word}`" for word in node["enum"])
    match node.get("type"):
        case "array":
            item = _value(node["items"], schema)
            count = node.get("minItems") if node.get("minItems") == node.get("maxItems") else None
            return f"{count} × {item}" if count else f"list of {item}"
        case "object":
            inner = node.get("additionalProperties")
            inner = inner or next(iter(node.get("patternProperties", {}).values()), None)
            return f"map to {_value(inner, schema)}" if isinstance(inner, dict) else "an object"
        case "integer":
            return "whole number" + _bounds(node)
        case "number":
            return "number" + _bounds(node)
        case "boolean":
            return "`true` or `false`"
        case _:
            return "text"


def _bounds(node: Mapping[str, Any]) -> str:
    low = (
        f"≥ {node['minimum']:g}"
        if "minimum" in node
        else f"> {node['exclusiveMinimum']:g}"
        if "exclusiveMinimum" in node
        else ""
    )
    high = (
        f"≤ {node['maximum']:.10g}"
        if "maximum" in node
        else f"< {node['exclusiveMaximum']:g}"
        if "exclusiveMaximum" in node
        else ""
    )
    return " " + ", ".join(part for part in (low, high) if part) if low or high else ""


def main() -> None:
    """Regenerate every document."""
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if (new := regenerated(text)) != text:
            path.write_text(new, encoding="utf-8")
            print(path.name)


if __name__ == "__main__":
    main()
