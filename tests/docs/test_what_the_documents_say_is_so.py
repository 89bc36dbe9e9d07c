"""Links resolve, commands and their options exist, manifests are valid, snippets run, tables are those of the code."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from fedstudy import errors
from fedstudy_operator import manifests
from fedstudy_operator.api import Reason
from fedstudy_operator.cli import cli

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def blocks(document: Path, language: str) -> list[str]:
    """The blocks of code of a document in one language."""
    return [text for name, text in FENCE.findall(document.read_text(encoding="utf-8")) if name == language]


def anchors(document: Path) -> set[str]:
    """The anchors that a document's headings have on the web."""
    prose = FENCE.sub("", document.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(document: Path) -> Iterator[list[str]]:
    """The words of every `fedstudy …` and `kubectl fedstudy …` in a document: lines of shell blocks, and code within the text."""
    text = document.read_text(encoding="utf-8")
    lines = [line for block in blocks(document, "bash") for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    for line in [*lines, *spans]:
        words = shlex.split(line, comments=True) if line.count("'") % 2 == 0 else line.split()
        if words[:1] == ["kubectl"]:  # the plugin
            words = words[1:]
        if len(words) > 1 and words[0].removeprefix(".venv/bin/") == "fedstudy":
            yield words[1:]


@each_document
def test_every_relative_link_resolves(document: Path) -> None:
    broken = []
    for target in LINK.findall(FENCE.sub("", document.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert not broken, f"{document.relative_to(ROOT)} links to what is not there"


@each_document
def test_every_named_command_and_option_exists(document: Path) -> None:
    for words in commands(document):
        name, *rest = words
        if name.startswith("-"):
            continue
        assert name in cli.commands, f"fedstudy {name}"
        known = {option for parameter in cli.commands[name].params for option in parameter.opts}
        for word in rest:
            if word.startswith("-"):
                assert word.partition("=")[0] in known | {"--help"}, f"fedstudy {name} {word}"


def test_every_command_is_named_somewhere() -> None:
    named = {words[0] for document in DOCUMENTS for words in commands(document)}
    assert set(cli.commands) - named - {"crds"} == set(), "`crds` is for developers: make crds"


@each_document
def test_manifests_in_documents_are_valid(document: Path, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(document, "yaml")):
        if "apiVersion:" not in text:
            yaml.safe_load(text)
            continue
        file = tmp_path / f"{number}.yaml"
        file.write_text(text, encoding="utf-8")
        found, faults = manifests.read([file])
        faults += [fault for manifest in found for fault in manifests.object_faults(manifest)]
        # A document shows one manifest at a time; what only several together show is checked by the examples.
        alone = [fault for fault in faults if "among these manifests" not in fault.message]
        assert found
        assert not alone, "\n".join(map(str, alone))


def test_the_smallest_study_is_valid_with_both_its_hospitals(tmp_path: Path) -> None:
    study, north = (text for text in blocks(ROOT / "docs/write-a-study.md", "yaml") if "apiVersion:" in text)
    (tmp_path / "study.yaml").write_text(study)
    (tmp_path / "north.yaml").write_text(north)
    (tmp_path / "south.yaml").write_text(north.replace("north", "south"))
    found, faults = manifests.read([tmp_path])
    assert not faults, "\n".join(map(str, faults))
    assert len(found) == 5


def test_the_partial_manifests_of_the_algorithm_guide_fit_into_a_study() -> None:
    from fedstudy.plan import Federation

    (text,) = blocks(ROOT / "docs/add-an-algorithm.md", "yaml")
    assert Federation.model_validate(yaml.safe_load(text)["federation"]).algorithm.name == "FedAvgM"


@each_document
def test_python_in_documents_compiles_and_its_imports_are_there(document: Path) -> None:
    for text in blocks(document, "python"):
        if document.name == "architecture.md":
            continue  # it shows signatures, not programs
        compile(text, document.name, "exec")
        for line in re.findall(r"^(?:from|import) .+$", text, re.MULTILINE):
            exec(line, {})


def test_generated_parts_are_those_of_the_code() -> None:
    generate = load_generator()
    stale = [
        document.name
        for document in sorted((ROOT / "docs").glob("*.md"))
        if generate.regenerated(text := document.read_text(encoding="utf-8")) != text
    ]
    assert not stale, "run: python docs/generate.py"


def test_every_reason_has_a_meaning_in_conditions() -> None:
    text = (ROOT / "docs" / "conditions.md").read_text(encoding="utf-8")
    for reason in Reason:
        assert re.search(rf"^\| `{reason.value}` \| \S.+ \|$", text, re.MULTILINE), reason


def test_every_exit_code_is_documented_where_users_look() -> None:
    text = (ROOT / "docs" / "write-a-study.md").read_text(encoding="utf-8")
    codes = {
        0,
        2,
        *(kind.exit_code for kind in subclasses(errors.FedstudyError)),
        errors.FedstudyError.exit_code,
    }
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert listed == codes


def test_every_target_of_make_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        named = re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)
        assert set(named) <= targets, document.name


def test_files_that_documents_name_in_the_repository_exist() -> None:
    roots = ("federation/", "operator/", "trainer-image/", "examples/", "tests/", "docs/")
    for document in DOCUMENTS:
        for span in re.findall(r"`([\w./\-]+)`", FENCE.sub("", document.read_text(encoding="utf-8"))):
            if span.startswith(roots):
                assert (ROOT / span).exists(), f"{document.name}: {span}"


def test_modules_that_decisions_name_exist() -> None:
    for document in (ROOT / "docs" / "decisions").glob("*.md"):
        for name in re.findall(
            r"`(fedstudy(?:_operator|_trainer)?(?:\.\w+)+)`", document.read_text(encoding="utf-8")
        ):
            assert resolves(name), f"{document.name}: {name}"


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or something within one."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def subclasses(kind: type[errors.FedstudyError]) -> set[type[errors.FedstudyError]]:
    """All below a class."""
    return {kind, *(below for child in kind.__subclasses__() for below in subclasses(child))} - {
        errors.FedstudyError
    }


def load_generator() -> ModuleType:
    """docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
