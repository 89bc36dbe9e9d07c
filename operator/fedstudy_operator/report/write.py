"""Write a study's report and model card beside its results."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from fedstudy.errors import ManifestError
from fedstudy.results import Results
from fedstudy.tensors import write_bytes
from fedstudy_operator.report.card import model_card
from fedstudy_operator.report.page import render


def read_results(path: Path) -> Results:
    """results.json of a folder, or the file itself.

    Raises:
        ManifestError: there is none, or it is not what fedstudy writes.
    """
    file = path / "results.json" if path.is_dir() else path
    try:
        return Results.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise ManifestError(f"{file} is not there.", "Give the folder that `fedstudy run` wrote.") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ManifestError(f"{file} is no results of fedstudy: {field}: {first['msg']}.") from None


def write_results(folder: Path, results: Results) -> None:
    """Write results.json, and what people read beside it."""
    write_bytes(folder / "results.json", results.model_dump_json(by_alias=True, indent=1).encode())
    write_report(folder)


def write_report(path: Path, out: Path | None = None) -> Path:
    """Write report.html and model-card.md beside results.json and return the page's path."""
    results = read_results(path)
    folder = path if path.is_dir() else path.parent
    page = out or folder / "report.html"
    page.write_text(render(results), encoding="utf-8")
    (folder / "model-card.md").write_text(model_card(results), encoding="utf-8")
    return page
