"""A small study of tables on disk, to be spoilt by a test, and `fedstudy` as a person calls it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import small_study

from fedstudy_operator.local.processes import start_time

SITES = ("east", "north", "south")
_VERSION = "fedstudy.io/v1alpha1"
Document = dict[str, Any]


def _study(rounds: int, min_sites: int) -> Document:
    return small_study.spec(
        federation={"rounds": rounds, "minSites": min_sites, "roundTimeoutSeconds": 60},
        sites=[{"name": site} for site in SITES],
    )


def _policy() -> Document:
    return {
        "purposes": ["DUO:0000007"],
        "algorithms": ["*"],
        "networks": ["*"],
        "images": ["*"],
        "minSites": 1,
        "requireSecureAggregation": False,
        "minCellCount": 1,
    }


def _rows(seed: int) -> list[dict[str, str]]:
    chance = random.Random(seed)
    rows = []
    for number in range(40):
        age = chance.gauss(50, 12)
        label = "mutant" if chance.random() < 1 / (1 + 2.7 ** ((age - 50) / 5)) else "wildtype"
        split = ("train", "train", "train", "val", "test")[number % 5]
        row = {"participant_id": f"p{seed}-{number:02d}", "split": split, "age": f"{age:.1f}", "idh": label}
        rows.append(
            row | {"days": f"{chance.expovariate(1 / 400) + 1:.0f}", "dead": str(int(chance.random() < 0.7))}
        )
    return rows


@dataclass
class Cohort:
    """Manifests and tables in a folder; change them, then `write`.

    Attributes:
        study: spec of the study.
        datasets, participants: specs by site.
        tables: rows by site.
    """

    folder: Path
    study: Document
    datasets: dict[str, Document]
    participants: dict[str, Document]
    tables: dict[str, list[dict[str, str]]]

    @property
    def results(self) -> Path:
        """Where `fedstudy run` writes."""
        return self.folder / "results"

    def survival(self) -> None:
        """Make the study one of survival."""
        target = {"time": "days", "event": "dead"}
        self.study["task"] |= {"type": "Survival", "target": target, "loss": "StratifiedCox"}

    def write(self) -> Path:
        """Write everything; returns the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._manifest("study", "FederatedStudy", "hub", "toy", self.study)
        for site, spec in self.datasets.items():
            self._manifest(f"{site}-dataset", "SiteDataset", site, "table", spec)
            self._manifest(f"{site}-participant", "SiteParticipant", site, "toy", self.participants[site])
        for site, rows in self.tables.items():
            table = self.folder / "data" / site / "participants.tsv"
            table.parent.mkdir(parents=True, exist_ok=True)
            names = list(rows[0]) if rows else ["participant_id"]
            lines = ["\t".join(names), *("\t".join(row.get(n, "n/a") for n in names) for row in rows)]
            table.write_text("\n".join(lines) + "\n")
        return self.folder

    def _manifest(self, file: str, kind: str, namespace: str, name: str, spec: Document) -> None:
        metadata = {"name": name, "namespace": namespace}
        document = {"apiVersion": _VERSION, "kind": kind, "metadata": metadata, "spec": spec}
        (self.folder / f"{file}.json").write_text(json.dumps(document, indent=2))


def cohort(folder: Path, *, rounds: int = 2, min_sites: int = 2) -> Cohort:
    """A healthy cohort of three sites with a table each, not yet written."""
    volume = {site: {"volume": {"persistentVolumeClaim": site}, "policy": _policy()} for site in SITES}
    participants = {
        site: {
            "study": {"name": "toy", "namespace": "hub"},
            "siteName": site,
            "datasetRef": "table",
            "approval": {"mode": "Automatic"},
            "trainer": {"release": "Never"},
        }
        for site in SITES
    }
    tables = {site: _rows(seed) for seed, site in enumerate(SITES)}
    return Cohort(folder, _study(rounds, min_sites), volume, participants, tables)


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what a person has read of it."""

    code: int
    text: str


_WORDS = (sys.executable, "-m", "fedstudy_operator.cli")


def fedstudy(*words: object, seconds: float = 120) -> Ended:
    """`fedstudy` with some words, to its end."""
    with started(*words) as run:
        return run.end(seconds)


@dataclass
class Run:
    """A `fedstudy` that runs."""

    process: subprocess.Popen[str]
    log: Path

    def text(self) -> str:
        """What a person has read so far."""
        return self.log.read_text()

    def until(self, words: str, seconds: float = 90) -> None:
        """Wait until it has said some words."""
        wait_for(lambda: words in self.text() or self.process.poll() is not None, seconds, self.text)
        assert words in self.text(), self.text()

    def end(self, seconds: float = 120) -> Ended:
        """Wait for its end."""
        self.process.wait(seconds)
        return Ended(self.process.returncode, self.text())


_count = iter(range(10**6))


@contextmanager
def started(*words: object, prefix: Sequence[str] = ()) -> Iterator[Run]:
    """`fedstudy` with some words, while it runs; it and all that it has started have ended afterwards."""
    folder = next((Path(str(word)) for word in words[1:2]), Path.cwd())
    log = folder.parent / f"said-{next(_count)}.txt"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [*prefix, *_WORDS, *map(str, words)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True, env=environment,
        )  # fmt: skip
    try:
        yield Run(process, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            finally:
                process.kill()
    left = processes(folder)
    assert not left, f"left behind: {left}"
    assert "Traceback" not in log.read_text(), log.read_text()


def processes(folder: Path) -> dict[int, str]:
    """Processes of this machine that work in a folder, by pid."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            environment = (entry / "environ").read_bytes().decode(errors="replace")
            zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        mine = f"={folder}/" in environment
        if mine and not zombie and "fedstudy" in words:
            found[int(entry.name)] = words
    return found


def trainer_of(folder: Path, site: str) -> int | None:
    """The process of a site's trainer that trains, if there is one."""
    for record in (folder / "results" / "state" / "processes").glob(f"{site}.*-trainer-*.json"):
        with suppress(FileNotFoundError, ValueError):  # ended, or being written
            pid = int(json.loads(record.read_text())["pid"])
            return pid if start_time(pid) else None
    return None


def wait_for(holds: Callable[[], object], seconds: float, tell: Callable[[], object] = str) -> Any:
    """Wait until something is so, and return it."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, tell()
        time.sleep(0.05)
    return found
