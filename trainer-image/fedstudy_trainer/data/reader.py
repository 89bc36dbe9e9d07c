"""Reads a participants' table from TSV or CSV as text, with the row numbers that a spreadsheet shows."""

from __future__ import annotations

import csv
import difflib
import io
from dataclasses import dataclass
from pathlib import Path

from fedstudy.errors import DataError

_MISSING = frozenset({"", "n/a", "na", "nan"})
_DELIMITERS = {".tsv": "\t", ".tab": "\t"}


@dataclass(frozen=True)
class TextTable:
    """A table of text cells.

    Attributes:
        name: file name, for messages.
        columns: names in order, all different.
        cells: one tuple for each row, as long as `columns`, without surrounding blanks.
        rows: line of each row in the file; the header is on line 1.
    """

    name: str
    columns: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    rows: tuple[int, ...]

    def column(self, name: str) -> list[str]:
        """All cells of a column that is there."""
        index = self.columns.index(name)
        return [row[index] for row in self.cells]

    def lacks(self, column: str, concept: str) -> str:
        """In words: the table has no such column, what it has, and what to do."""
        meant = f" (for {concept})" if concept != column else ""
        close = difflib.get_close_matches(column, self.columns, n=1, cutoff=0.6)
        hint = f" Did you mean {close[0]}?" if close else ""
        have = ", ".join(self.columns[:20]) + (", …" if len(self.columns) > 20 else "")
        return (
            f"{self.name}: expected a column {column}{meant}, found {have}.{hint} "
            f"Add it, or map it: columns: {{{concept}: …}}."
        )


def is_missing(cell: str) -> bool:
    """Whether a cell says that there is no value: empty, n/a, NA, nan."""
    return cell.lower() in _MISSING


def read_text_table(path: Path) -> TextTable:
    """A table from a file; the delimiter follows from the ending, or from the header line.

    Raises:
        DataError: the file cannot be read, is not UTF-8, is empty, names a column twice, or has rows of another length.
    """
    text = _read_text(path)
    if "\0" in text:
        raise DataError(f"{path.name} holds binary data.", "Save the table as text: TSV or CSV, UTF-8.")
    header = io.StringIO(text, newline="").readline().strip("\r\n")
    if not header.strip():
        raise DataError(f"{path.name} is empty.", "Its first line must name the columns.")
    lines = io.StringIO(text, newline="")  # untranslated, so that a quoted cell may hold a line break
    reader = csv.reader(lines, delimiter=_delimiter(path, header), strict=True)
    try:
        columns = tuple(cell.strip() for cell in next(reader))
        _refuse_double(path.name, columns)
        cells, rows, ragged = [], [], []
        for record in reader:
            if not any(cell.strip() for cell in record):
                continue
            if len(record) != len(columns):
                ragged.append((reader.line_num, len(record)))
            cells.append(tuple(cell.strip() for cell in record))
            rows.append(reader.line_num)
    except csv.Error as error:
        raise DataError(
            f"{path.name}, row {reader.line_num}: {error}.", "Look for an unclosed quotation mark."
        ) from error
    if ragged:
        row, found = ragged[0]
        more = f" ({len(ragged) - 1} more rows alike)" if len(ragged) > 1 else ""
        raise DataError(
            f"{path.name}, row {row}: expected {len(columns)} cells, found {found}{more}.",
            "Fill or remove cells so that every row has as many as the header.",
        )
    return TextTable(path.name, columns, tuple(cells), tuple(rows))


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(
            f"{path.name} is not in the dataset's folder {path.parent}.",
            "Put the participants' table there, or name it in the dataset's table.",
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path.name}: byte {error.start} is not UTF-8 text.", "Save the table as UTF-8."
        ) from error


def _delimiter(path: Path, header: str) -> str:
    known = _DELIMITERS.get(path.suffix.lower())
    if known is not None:
        return known
    candidates = ",;" if path.suffix.lower() == ".csv" else "\t,;"
    return max(candidates, key=header.count)


def _refuse_double(name: str, columns: tuple[str, ...]) -> None:
    for index, column in enumerate(columns):
        if not column:
            raise DataError(f"{name}, row 1: column {index + 1} has no name.", "Name or remove it.")
        if column in columns[:index]:
            raise DataError(f"{name}, row 1: column {column} is there twice.", "Rename or remove one.")
