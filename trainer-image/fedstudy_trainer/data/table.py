"""Turns a participants' table into the numbers that a plan asks for: covariates, labels, times, events, splits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedstudy.errors import DataError
from fedstudy.plan import StudyPlan, TaskType
from fedstudy_trainer.data.config import PARTICIPANT, SPLIT, DatasetConfig
from fedstudy_trainer.data.findings import Findings, one_of, row_list
from fedstudy_trainer.data.reader import TextTable, is_missing, read_text_table
from fedstudy_trainer.data.splits import Split, parse_split, stratified_split

SMALLEST_TIME = 0.03
"""A time of 0 becomes this, in the table's unit (months: about a day), because hazards need a positive time."""

_EVENTS = {
    **dict.fromkeys(("1", "1.0", "true", "dead", "yes"), 1),
    **dict.fromkeys(("0", "0.0", "false", "alive", "no"), 0),
}


@dataclass(frozen=True)
class Cases:
    """n cases of a site in the table's order, as numbers. `participants` and `table` never leave the site.

    Attributes:
        participants: names, all different.
        rows: [n] int64, line of each case in the table.
        covariates: [n, P] float64, raw; NaN where missing. A categorical covariate is k-1 columns of 0 and 1.
        covariate_names: P names; `sex=male` for a column of a categorical covariate.
        labels: [n] int64, index of the class; -1 where missing, and in a survival task.
        times: [n] float64, positive; NaN where missing, and in a classification task.
        events: [n] int64, 1 seen, 0 censored; -1 where missing, and in a classification task.
        splits: n splits.
        table: the text that all this was read from, for the paths of images.
    """

    participants: tuple[str, ...]
    rows: NDArray[np.int64]
    covariates: NDArray[np.float64]
    covariate_names: tuple[str, ...]
    labels: NDArray[np.int64]
    times: NDArray[np.float64]
    events: NDArray[np.int64]
    splits: tuple[Split, ...]
    table: TextTable

    def __len__(self) -> int:
        return len(self.participants)

    def has_target(self) -> NDArray[np.bool_]:
        """[n]: whether the case can be learnt from, that is, has its label, or both its time and its event."""
        return np.asarray((self.labels >= 0) | (np.isfinite(self.times) & (self.events >= 0)))

    def in_split(self, split: Split) -> NDArray[np.bool_]:
        """[n]: whether the case belongs to the split."""
        return np.array([s is split for s in self.splits], dtype=np.bool_)


def covariate_columns(plan: StudyPlan) -> tuple[str, ...]:
    """Names of the P expanded covariate columns, in plan order."""
    names: list[str] = []
    for covariate in plan.task.covariates:
        if covariate.categories is None:
            names.append(covariate.name)
        else:
            names.extend(f"{covariate.name}={category}" for category in covariate.categories[1:])
    return tuple(names)


def read_cases(config: DatasetConfig, root: Path, plan: StudyPlan) -> Cases:
    """The cases of a dataset.

    Raises:
        DataError: the table does not fit the plan; the message has the first fault.
    """
    findings = Findings()
    cases = find_cases(config, root, plan, findings)
    findings.raise_faults()
    assert cases is not None  # without cases there is a fault
    return cases


def find_cases(config: DatasetConfig, root: Path, plan: StudyPlan, findings: Findings) -> Cases | None:
    """The cases of a dataset, with all that does not fit added to `findings`; None if the table cannot be used at all."""
    try:
        table = read_text_table(_table_path(config, root))
    except DataError as error:
        findings.fault(str(error))
        return None
    columns = _Columns(table, config, findings)
    _check_required(columns, plan)
    participants = _participants(columns)
    if participants is None:
        return None
    covariates = _covariates(columns, plan)
    labels, times, events = _target(columns, plan)
    strata = labels if plan.task.type is TaskType.CLASSIFICATION else events
    splits = _splits(columns, config, participants, strata, plan.training.seed)
    return Cases(
        participants=tuple(participants),
        rows=np.array(table.rows, dtype=np.int64),
        covariates=covariates,
        covariate_names=covariate_columns(plan),
        labels=labels,
        times=times,
        events=events,
        splits=tuple(splits),
        table=table,
    )


def _table_path(config: DatasetConfig, root: Path) -> Path:
    path = root / config.table
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(
            f"{config.table} is a link out of the dataset's folder.", "Put the table itself into the folder."
        )
    return path


@dataclass(frozen=True)
class _Columns:
    """A table's columns by concept; what is missing or unreadable goes to the findings."""

    table: TextTable
    config: DatasetConfig
    findings: Findings

    def cells(self, concept: str) -> list[str] | None:
        """The column of a concept; None, and a fault, if there is none."""
        column = self.config.column(concept)
        if column not in self.table.columns:
            self.findings.fault(self.table.lacks(column, concept))
            return None
        return self.table.column(column)

    def place(self, rows: Sequence[int], concept: str) -> str:
        """Where something was found: file, rows, column."""
        return f"{self.table.name}, {row_list(rows)}, column {self.config.column(concept)}"

    def parse(
        self,
        concept: str,
        parser: Callable[[str], float | None],
        expected: str,
        *,
        required: bool = False,
    ) -> list[float] | None:
        """Each cell of a concept as a number; NaN where missing, which is a fault if it is required.

        Cells that the parser refuses (None) become one fault for each text.
        """
        cells = self.cells(concept)
        if cells is None:
            return None
        values, refused = [], dict[str, list[int]]()
        for cell, row in zip(cells, self.table.rows, strict=True):
            value = parser(cell)
            if value is None:
                value = math.nan
                if required or not is_missing(cell):
                    refused.setdefault(cell, []).append(row)
            values.append(value)
        for cell, rows in refused.items():
            self.findings.fault(f'{self.place(rows, concept)}: expected {expected}, found "{cell}".')
        return values


def _check_required(columns: _Columns, plan: StudyPlan) -> None:
    for name in plan.cohort.require.columns:
        columns.cells(name)


def _participants(columns: _Columns) -> list[str] | None:
    names = columns.cells(PARTICIPANT)
    if names is None:
        return None
    if not names:
        columns.findings.fault(f"{columns.table.name} has no rows: expected one for each participant.")
        return None
    seen: dict[str, int] = {}
    for name, row in zip(names, columns.table.rows, strict=True):
        if is_missing(name):
            columns.findings.fault(f"{columns.place([row], PARTICIPANT)}: expected a name, found nothing.")
        elif name in seen:
            columns.findings.fault(
                f"{columns.place([seen[name], row], PARTICIPANT)}: expected a different participant in each row, found the same."
            )
        else:
            seen[name] = row
    return names


def _covariates(columns: _Columns, plan: StudyPlan) -> NDArray[np.float64]:
    """[n, P], expanded; NaN where missing."""
    cases = len(columns.table.cells)
    blocks = [np.empty((cases, 0))]
    for covariate in plan.task.covariates:
        if covariate.categories is None:
            numbers = columns.parse(covariate.name, parse_number, "a number (with a point)")
            width = 1
            block = np.array(numbers, dtype=np.float64)[:, None] if numbers is not None else None
        else:
            width = len(covariate.categories) - 1
            codes = columns.parse(
                covariate.name, class_parser(covariate.categories), one_of(covariate.categories)
            )
            block = one_hot(np.array(codes), width + 1) if codes is not None else None
        blocks.append(np.full((cases, width), np.nan) if block is None else block)
    return np.concatenate(blocks, axis=1)


def _target(
    columns: _Columns, plan: StudyPlan
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Labels, times and events, each [n]."""
    cases = len(columns.table.cells)
    target = plan.task.target
    labels, times, events = np.full(cases, -1), np.full(cases, np.nan), np.full(cases, -1)
    if target.label is not None and target.classes is not None:
        found = columns.parse(target.label, class_parser(target.classes), one_of(target.classes))
        labels = labels if found is None else _codes(found)
    if target.time is not None and target.event is not None:
        numbers = columns.parse(target.time, _parse_time, "a time, 0 or more")
        times = times if numbers is None else _positive(columns, target.time, np.array(numbers))
        expected = "1 or 0 (or true/false, dead/alive, yes/no)"
        found = columns.parse(target.event, _parse_event, expected)
        events = events if found is None else _codes(found)
    return labels.astype(np.int64), times.astype(np.float64), events.astype(np.int64)


def _positive(columns: _Columns, concept: str, times: NDArray[np.float64]) -> NDArray[np.float64]:
    zero = [row for row, time in zip(columns.table.rows, times, strict=True) if time == 0]
    if zero:
        columns.findings.warn(f"{columns.place(zero, concept)}: a time of 0 is taken as {SMALLEST_TIME}.")
    return np.where(times == 0, SMALLEST_TIME, times)


def _splits(
    columns: _Columns, config: DatasetConfig, participants: list[str], strata: NDArray[np.int64], seed: int
) -> list[Split]:
    if SPLIT not in config.columns and SPLIT not in columns.table.columns:
        return stratified_split(participants, strata, seed)
    codes = columns.parse(SPLIT, _split_code, "train, validation or test", required=True)
    if codes is None:
        return [Split.TRAINING] * len(participants)
    return [Split.TRAINING if math.isnan(code) else list(Split)[int(code)] for code in codes]


def _split_code(cell: str) -> float | None:
    split = parse_split(cell)
    return None if split is None else float(list(Split).index(split))


def parse_number(cell: str) -> float | None:
    """A finite decimal number; None for anything else."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None


def class_parser(classes: Sequence[str]) -> Callable[[str], float | None]:
    """A function from a cell to the index of its class: spelt exactly, or else whatever its case if that is unambiguous."""
    exact = {name: float(index) for index, name in enumerate(classes)}
    folded: dict[str, float | None] = {}
    for name, index in exact.items():
        folded[name.casefold()] = None if name.casefold() in folded else index

    def parse(cell: str) -> float | None:
        if cell in exact:
            return exact[cell]
        return None if is_missing(cell) else folded.get(cell.casefold())

    return parse


def one_hot(codes: NDArray[np.float64], categories: int) -> NDArray[np.float64]:
    """[n, categories-1] of 0 and 1, without the first category (the reference); a row of NaN where the code is NaN."""
    known = (codes[:, None] == np.arange(1, categories)[None, :]).astype(np.float64)
    return np.where(np.isnan(codes)[:, None], np.nan, known)


def _parse_time(cell: str) -> float | None:
    value = parse_number(cell)
    return value if value is not None and value >= 0 else None


def _parse_event(cell: str) -> float | None:
    return _EVENTS.get(cell.lower())


def _codes(values: list[float]) -> NDArray[np.int64]:
    """[n] codes, -1 where NaN."""
    return np.array([-1 if math.isnan(value) else int(value) for value in values], dtype=np.int64)
