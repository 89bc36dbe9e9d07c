"""Manifests on disk: read them, and find every fault at once, each with its file, line, field and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ValidationError

from fedstudy_operator.api import API_VERSION, GROUP, FederatedStudy, SiteDataset, SiteParticipant
from fedstudy_operator.cluster import Object

KINDS: dict[str, type[BaseModel]] = {
    "FederatedStudy": FederatedStudy,
    "SiteParticipant": SiteParticipant,
    "SiteDataset": SiteDataset,
}
SUFFIXES = (".yaml", ".yml", ".json")
Location = tuple[int | str, ...]


@dataclass(frozen=True, order=True)
class Fault:
    """Something wrong in a manifest.

    Attributes:
        file: the manifest's file.
        line: counted from 1; 0 where the whole file is meant.
        field: path of the field, for example spec.training.batchSize.
        message: what is wrong.
        remedy: what to do; may be empty.
    """

    file: str
    line: int
    field: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        field = f" {self.field}:" if self.field else ""
        return f"{where}:{field} {self.message}" + (f" {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Manifest:
    """One document of a file, with its syntax tree for line numbers."""

    file: str
    content: Object
    node: yaml.Node

    @property
    def kind(self) -> str:
        """The object's kind, as written."""
        return str(self.content.get("kind", ""))

    @property
    def name(self) -> str:
        """The object's name, as written."""
        return str((self.content.get("metadata") or {}).get("name", ""))

    @property
    def namespace(self) -> str:
        """The object's namespace; `default` where none is written."""
        return str((self.content.get("metadata") or {}).get("namespace", "default"))

    @property
    def spec(self) -> Object:
        """The spec, as written; empty where it is missing or no map."""
        spec = self.content.get("spec")
        return spec if isinstance(spec, dict) else {}

    def line(self, location: Location) -> int:
        """The line of a field, or of the nearest thing around it that is there."""
        node = self.node
        for step in location:
            child = _child(node, step)
            if child is None:
                break
            node = child
        return int(node.start_mark.line) + 1

    def fault(self, location: Location, message: str, remedy: str = "") -> Fault:
        """A fault at a field."""
        return Fault(self.file, self.line(location), dotted(location), message, remedy)


def find(paths: Sequence[Path]) -> tuple[list[Path], list[Fault]]:
    """The manifest files under some paths: files as they are, folders to two levels, without anything under `data`."""
    files: list[Path] = []
    faults = []
    for path in paths:
        if path.is_file():
            files.append(path)
        elif path.is_dir():
            found = sorted({*path.glob("*"), *path.glob("*/*")})
            files += [
                p for p in found
                if p.is_file() and p.suffix in SUFFIXES and "data" not in p.relative_to(path).parts[:-1]
                and p.relative_to(path).parts[0] not in ("truth", "results")
            ]  # fmt: skip
        else:
            faults.append(Fault(str(path), 0, "", "There is no such file or folder."))
    return files, faults


def read(paths: Sequence[Path]) -> tuple[list[Manifest], list[Fault]]:
    """All documents under some paths that are fedstudy's, and what is wrong with them as text and as objects."""
    files, faults = find(paths)
    manifests: list[Manifest] = []
    for file in files:
        found, wrong = _documents(file)
        manifests += found
        faults += wrong
    if not manifests and not faults:
        names = ", ".join(str(p) for p in paths)
        faults.append(
            Fault(names, 0, "", f"No manifest of {GROUP} here.", "Give files, or a folder that holds them.")
        )
    for manifest in manifests:
        faults += object_faults(manifest)
    return manifests, sorted(faults + between(manifests))


def object_faults(manifest: Manifest) -> list[Fault]:
    """Every fault within one object."""
    if manifest.content.get("apiVersion") != API_VERSION:
        return [
            manifest.fault(
                ("apiVersion",), f"expected {API_VERSION}, found {manifest.content.get('apiVersion')!r}."
            )
        ]
    model = KINDS.get(manifest.kind)
    if model is None:
        return [
            manifest.fault(
                ("kind",), f"{manifest.kind!r} is no kind of {GROUP}.", _did_you_mean(manifest.kind, KINDS)
            )
        ]
    try:
        model.model_validate(manifest.content)
    except ValidationError as error:
        entries = (cast(dict[str, Any], entry) for entry in error.errors())
        return _one_each([fault for entry in entries for fault in _explain(manifest, model, entry)])
    return []


def between(manifests: Sequence[Manifest]) -> list[Fault]:
    """Faults that only several objects together show."""
    faults: list[Fault] = []
    seen: dict[tuple[str, str, str], Manifest] = {}
    for manifest in manifests:
        key = (manifest.kind, manifest.namespace, manifest.name)
        if key in seen:
            faults.append(
                manifest.fault(
                    ("metadata", "name"),
                    f"{manifest.kind} {manifest.name} stands in {seen[key].file} already.",
                    "Rename one of them.",
                )
            )
        seen[key] = manifest
    studies = {(m.namespace, m.name): m for m in manifests if m.kind == "FederatedStudy"}
    datasets = {(m.namespace, m.name) for m in manifests if m.kind == "SiteDataset"}
    for study in studies.values():
        if not study.spec.get("sites"):
            faults.append(
                study.fault(
                    ("spec", "sites"),
                    "is empty: nobody is invited, and nothing would be trained.",
                    "List the hospitals: sites: [{name: …}].",
                )
            )
    sites: dict[tuple[str, str, str], Manifest] = {}
    for manifest in (m for m in manifests if m.kind == "SiteParticipant"):
        faults += _participant_between(manifest, studies, datasets, sites)
    return faults


def _participant_between(
    manifest: Manifest,
    studies: dict[tuple[str, str], Manifest],
    datasets: set[tuple[str, str]],
    sites: dict[tuple[str, str, str], Manifest],
) -> Iterator[Fault]:
    spec = manifest.spec
    dataset = str(spec.get("datasetRef", ""))
    if dataset and datasets and (manifest.namespace, dataset) not in datasets:
        names = [name for namespace, name in datasets if namespace == manifest.namespace]
        yield manifest.fault(
            ("spec", "datasetRef"),
            f"no SiteDataset {dataset!r} in namespace {manifest.namespace!r} among these manifests.",
            _did_you_mean(dataset, names),
        )
    reference = spec.get("study")
    if not isinstance(reference, dict) or "namespace" not in reference:
        return
    key = (str(reference["namespace"]), str(reference.get("name", "")))
    site = str(spec.get("siteName", ""))
    if key in studies:
        listed = studies[key].spec.get("sites") or []
        names = [str(entry.get("name")) for entry in listed if isinstance(entry, dict)]
        if names and site not in names:
            yield manifest.fault(
                ("spec", "siteName"),
                f"{site!r} is not listed in the study's sites.",
                _did_you_mean(site, names),
            )
    elif studies:
        yield manifest.fault(
            ("spec", "study", "name"),
            f"no FederatedStudy {key[1]!r} in namespace {key[0]!r} among these manifests.",
            _did_you_mean(key[1], [name for _, name in studies]),
        )
    if (*key, site) in sites:
        yield manifest.fault(
            ("spec", "siteName"),
            f"{site!r} takes part already by {sites[*key, site].file}.",
            "A site takes part in a study once.",
        )
    sites[*key, site] = manifest


def dotted(location: Iterable[int | str]) -> str:
    """spec.sites[2].name"""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: dates stay strings, 1e-3 is a number, a key stands once."""

    yaml_implicit_resolvers = {
        letter: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:timestamp"]
        for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _documents(file: Path) -> tuple[list[Manifest], list[Fault]]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return [], [Fault(str(file), 0, "", f"cannot be read: {error}.")]
    manifests, faults = [], []
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            content = loader.construct_document(node) if node is not None else None
            if node is None or content is None:
                continue
            if not isinstance(content, dict):
                faults.append(
                    Fault(
                        str(file),
                        int(node.start_mark.line) + 1,
                        "",
                        "is no object with apiVersion, kind and metadata.",
                    )
                )
                continue
            faults += [
                Fault(str(file), line, dotted(where), "stands twice.", "Keep one.")
                for where, line in _repeated(node, ())
            ]
            if str(content.get("apiVersion", "")).startswith(GROUP) or content.get("kind") in KINDS:
                manifests.append(Manifest(str(file), content, node))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        faults.append(
            Fault(
                str(file),
                mark.line + 1 if mark else 0,
                "",
                f"is not valid YAML: {problem}.",
                "Mind indentation and quotes.",
            )
        )
    return manifests, faults


def _repeated(node: yaml.Node, where: Location) -> Iterator[tuple[Location, int]]:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                yield (*where, key.value), int(key.start_mark.line) + 1
            seen.add(key.value)
            yield from _repeated(value, (*where, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _repeated(item, (*where, number))


def _child(node: yaml.Node, step: int | str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return cast(yaml.Node, value)
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return cast(yaml.Node, node.value[step])
    return None


def _explain(manifest: Manifest, model: type[BaseModel], error: dict[str, Any]) -> Iterator[Fault]:
    """One of pydantic's errors in words for a person; a rule between fields may hold several."""
    location = _written(manifest, cast(Location, error["loc"]))
    kind, found = error["type"], error.get("input")
    if kind == "missing":
        yield manifest.fault(location, "is required.", "")
    elif kind == "extra_forbidden":
        yield manifest.fault(
            location, "is not a field here.", _did_you_mean(str(location[-1]), _fields(model, location[:-1]))
        )
    elif kind == "value_error":
        for part in str(error["ctx"]["error"]).split("; "):
            path, _, what = part.partition(": ")
            if what and " " not in path:
                inner = tuple(path.split("."))
                yield manifest.fault((*location, *inner), what if what.endswith(".") else f"{what}.")
            else:
                yield manifest.fault(location, f"{part}.")
    else:
        shown = "" if isinstance(found, dict | list) else f", found {found!r}"
        quoted = (
            "Put it in quotes: YAML reads it otherwise."
            if kind == "string_type" and isinstance(found, bool | int | float)
            else ""
        )
        text = str(error["msg"]).removeprefix("Input should be ").removeprefix("Value should have ")
        yield manifest.fault(location, f"expected {text[0].lower()}{text[1:]}{shown}.", quoted)


def _one_each(faults: Sequence[Fault]) -> list[Fault]:
    """One fault for a field that fits no branch of a union."""
    by_field: dict[str, list[Fault]] = {}
    for fault in faults:
        by_field.setdefault(fault.field, []).append(fault)
    union = "expected a number, a string, true or false, or a list of numbers and strings."
    return [
        replace(same[0], message=union) if len(same) > 3 else fault
        for same in by_field.values()
        for fault in (same if len(same) <= 3 else same[:1])
    ]


def _written(manifest: Manifest, location: Location) -> Location:
    """Drop the steps of pydantic's location that name a branch of a union rather than a field."""
    unions = {"bool", "int", "float", "str", "list[union[int,float,str]]", "[key]"}
    return tuple(
        step
        for step in location
        if not (
            isinstance(step, str)
            and (step in unions or step.startswith(("list[", "function-", "constrained-")))
        )
    )


def _fields(model: type[BaseModel], location: Location) -> list[str]:
    """Names of the fields at a place of a model."""
    schema = model.model_json_schema(by_alias=True)
    node: dict[str, Any] = schema
    for step in location:
        node = _plain(node, schema)
        node = node.get("items", {}) if isinstance(step, int) else node.get("properties", {}).get(step, {})
    return list(_plain(node, schema).get("properties", {}))


def _plain(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while True:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        elif "anyOf" in node:
            node = node["anyOf"][0]
        else:
            return node


def _did_you_mean(word: str, words: Iterable[str]) -> str:
    options = list(words)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]}?"
    return f"Known are: {', '.join(sorted(options))}." if options else ""
