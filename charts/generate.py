"""Writes what the two charts share, and what their documents and schemas take from their values.

    python charts/generate.py            # `make charts`

Both charts install the same operator in two roles, so a chart is made of `common/` (templates, values) and of what is its
own (`values-own.yaml`, `files/`, some templates). Written are, in each chart: the common templates, the CustomResourceDefinitions
of its role as templates, `values.yaml`, `values.schema.json`, `files/dashboard.json` and `README.md`. A test regenerates
and compares, so that neither a copy nor a table can go its own way.

In a values file a comment `# -- …` above a value is its documentation, and `# @schema {…}` after it narrows what may stand there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CHARTS = Path(__file__).resolve().parent
COMMON = CHARTS / "common"
CRDS = CHARTS.parent / "crds"
KINDS: Mapping[str, tuple[str, ...]] = {
    "fedstudy-hub": ("federatedstudies",),
    "fedstudy-site": ("siteparticipants", "sitedatasets"),
}
"""Chart → the CRDs of its role. No CRD is in both, so that both charts fit into one cluster."""

_RESOURCE: dict[str, Any] = {
    "type": "object",
    "required": ["name", "spec"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", "maxLength": 63},
        "namespace": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", "maxLength": 63},
        "spec": {"type": "object"},
    },
}
_LINE = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z]\w*):(?P<value> [^#]*)?(?:# @schema (?P<schema>.*))?$")


class ValuesError(ValueError):
    """A values file says something that its generator cannot read; the message names the line."""


@dataclass
class Value:
    """One key of a values file: its path, documentation, default and what narrows it; or a map of such."""

    path: tuple[str, ...]
    doc: str = ""
    default: Any = None
    schema: dict[str, Any] = field(default_factory=dict)
    children: list[Value] = field(default_factory=list)


def parse(text: str) -> list[Value]:
    """The values of a file with their comments.

    Raises:
        ValuesError: a value has no documentation, or a schema is no JSON.
    """
    defaults = yaml.safe_load(text) or {}
    roots: list[Value] = []
    above: list[Value] = []
    doc: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("# --"):
            doc = [stripped.removeprefix("# --").strip()]
        elif stripped.startswith("#") and doc:
            doc.append(stripped.removeprefix("#").strip())
        elif found := _LINE.match(line):
            depth = len(found["indent"]) // 2
            above = above[:depth]
            path = (*(above[-1].path if above else ()), found["key"])
            value = Value(path, " ".join(doc), _at(defaults, path), _schema(found["schema"], number))
            leaf = bool((found["value"] or "").strip())
            if leaf and not value.doc:
                raise ValuesError(f"line {number}: {'.'.join(path)} has no `# --` documentation above it.")
            (above[-1].children if above else roots).append(value)
            above.append(value)
            doc = []
        elif stripped and not stripped.startswith("#"):
            raise ValuesError(
                f"line {number}: {stripped!r} is neither a comment nor `key: value`; write maps and lists in one line."
            )
    return roots


def _schema(text: str | None, number: int) -> dict[str, Any]:
    try:
        return dict(json.loads(text)) if text else {}
    except ValueError as error:
        raise ValuesError(f"line {number}: the schema is no JSON object: {error}.") from error


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        values = values[key]
    return values


def schema(values: list[Value]) -> dict[str, Any]:
    """The JSON schema of a chart's values. What is not documented is refused."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {"resource": _RESOURCE},
        **_object(values),
    }


def _object(values: list[Value]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {value.path[-1]: _node(value) for value in values},
    }


def _node(value: Value) -> dict[str, Any]:
    if value.children:
        return _object(value.children)
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    inferred = {} if "enum" in value.schema else {"type": kinds[type(value.default)]}
    return {"description": value.doc, **inferred, **value.schema, "default": value.default}


def leaves(values: list[Value]) -> Iterator[Value]:
    """All values that are no maps of values, in the order of the file."""
    for value in values:
        if value.children:
            yield from leaves(value.children)
        else:
            yield value


def table(values: list[Value]) -> str:
    """The values as a Markdown table."""
    rows = ["| value | default | meaning |", "| --- | --- | --- |"]
    for value in leaves(values):
        default = json.dumps(value.default, ensure_ascii=False)
        cells = (f"`{'.'.join(value.path)}`", f"`{default}`", value.doc)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def crd_template(plural: str) -> str:
    """A CustomResourceDefinition as a template: as it is in crds/, with labels and the policy to keep it."""
    text = (CRDS / f"fedstudy.io_{plural}.yaml").read_text(encoding="utf-8")
    head, name, rest = re.split(r"^(  name: .*\n)", text, maxsplit=1, flags=re.MULTILINE)
    head = head.partition("\n")[2]  # crds/ has its own comment
    return (
        "{{- /* Made by `make charts` from crds/. */}}\n{{- if .Values.crds.enabled }}\n"
        + head
        + name
        + '  labels: {{- include "fedstudy.labels" . | nindent 4 }}\n'
        + "  {{- if .Values.crds.keep }}\n  annotations: {helm.sh/resource-policy: keep}\n  {{- end }}\n"
        + _literal(rest)
        + "{{- end }}\n"
    )


def _literal(text: str) -> str:
    """Text that Helm prints as it is."""
    return re.sub(r"\{\{|\}\}", lambda found: '{{ "' + found[0] + '" }}', text)


def dashboard(panels: Mapping[str, Any], uid: str) -> dict[str, Any]:
    """A Grafana dashboard out of a short list of panels, three a row."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    made = []
    for number, panel in enumerate(panels["panels"]):
        made.append(
            {
                "id": number + 1,
                "type": panel.get("type", "timeseries"),
                "title": panel["title"],
                "description": panel.get("description", ""),
                "datasource": source,
                "gridPos": {"h": 8, "w": 8, "x": number % 3 * 8, "y": number // 3 * 8},
                "fieldConfig": {"defaults": {"unit": panel.get("unit", "short"), "min": 0}, "overrides": []},
                "targets": [
                    {
                        "refId": "A",
                        "expr": panel["query"],
                        "legendFormat": panel.get("legend", ""),
                        "datasource": source,
                    }
                ],
            }
        )
    variable = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
    return {
        "uid": uid,
        "title": panels["title"],
        "tags": ["fedstudy"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [variable]},
        "panels": made,
    }


def generated(chart: str) -> dict[str, str]:
    """All files of a chart that are generated: path within the chart → content."""
    folder = CHARTS / chart
    files = {}
    for path in sorted((COMMON / "templates").rglob("*")):
        if path.is_file():
            comment = "{{- /* Made by `make charts` from charts/common. */}}\n"
            files[str(path.relative_to(COMMON))] = comment + path.read_text(encoding="utf-8")
    for path in sorted((COMMON / "files").iterdir()):
        files[f"files/{path.name}"] = path.read_text(encoding="utf-8")
    for plural in KINDS[chart]:
        files[f"templates/crd-{plural}.yaml"] = crd_template(plural)
    parts = [COMMON / "values.yaml", folder / "values-own.yaml"]
    text = "\n".join(part.read_text(encoding="utf-8") for part in parts)
    values = parse(text)
    note = "# Made by `make charts` from charts/common/values.yaml and values-own.yaml. README.md has it as a table.\n"
    files["values.yaml"] = note + re.sub(r" *# @schema .*", "", text)
    files["values.schema.json"] = json.dumps(schema(values), indent=2, ensure_ascii=False) + "\n"
    head = (folder / "README-head.md").read_text(encoding="utf-8")
    files["README.md"] = (
        f"{head}\n## Values\nMade by `make charts` from the comments in `values.yaml`.\n\n{table(values)}"
    )
    panels = yaml.safe_load((folder / "files" / "dashboard.yaml").read_text(encoding="utf-8"))
    files["files/dashboard.json"] = json.dumps(dashboard(panels, chart), indent=1) + "\n"
    return files


def main() -> None:
    """Write every generated file that has changed."""
    for chart in KINDS:
        for name, content in generated(chart).items():
            path = CHARTS / chart / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_text(encoding="utf-8") != content:
                path.write_text(content, encoding="utf-8")
                print(path.relative_to(CHARTS))


if __name__ == "__main__":
    main()
