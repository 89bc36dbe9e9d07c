"""The command line as a person runs it, in this process: words in; exit code, standard output and standard error out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from fedstudy_operator import cli


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `kubectl fedstudy WORDS…`."""
    monkeypatch.setenv("COLUMNS", "200")

    def go(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["kubectl-fedstudy", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return go
