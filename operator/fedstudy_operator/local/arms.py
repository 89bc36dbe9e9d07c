"""The control arms of a finished study: the trainer's own code, all rows in one process, no federation."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from fedstudy.errors import StudyFailedError
from fedstudy.results import Arm
from fedstudy_operator.api import SiteParticipant
from fedstudy_operator.children.participant import dataset_configuration
from fedstudy_operator.local.forks import Forks
from fedstudy_operator.local.prepare import Work
from fedstudy_operator.local.processes import Command, Process

_ARMS = TypeAdapter(list[Arm])
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
_GRACE = 10.0


@dataclass(frozen=True)
class Controls:
    """Runs the control arms of one study.

    Attributes:
        work: the manifests.
        sites: the participants whose update is in the model.
        plan: canonical JSON of the plan.
        folder: for `arms/<arm>/arms.json` and preprocessed volumes; what is there already is used again.
        log: file for their output.
        records: folder in which a running process is written down.
        forks: starts what it serves.
    """

    work: Work
    sites: Sequence[SiteParticipant]
    plan: bytes
    folder: Path
    log: Path
    records: Path
    forks: Forks | None = None

    async def run(self, arm: str) -> Arm:
        """Train and evaluate one arm, local or pooled.

        Raises:
            StudyFailedError: it ended with an error; its log says why.
        """
        out = self.folder / "arms" / arm
        if not (out / "arms.json").exists():
            out.mkdir(parents=True, exist_ok=True)
            process = await Process.start(
                self._command(arm, out),
                log=self.log,
                record=self.records / f"arm-{arm}.json",
                forks=self.forks,
            )
            try:
                ended = await process.wait()
            finally:
                await process.stop(_GRACE)
            if ended.code:
                raise StudyFailedError(
                    f"The {arm} arm ended with exit code {ended.code}.", f"Its log: {self.log}"
                )
        return _ARMS.validate_json((out / "arms.json").read_bytes())[0]

    def _command(self, arm: str, out: Path) -> Command:
        plan = self.folder / "arms" / "plan.json"
        plan.write_bytes(self.plan)
        threads = max(participant.spec.trainer.threads for participant in self.sites)
        words = ["control", "--arm", arm, "--plan", str(plan), "--out", str(out), "--threads", str(threads)]
        words += ["--scratch", str(self.folder / "arms" / "scratch")]
        for participant in self.sites:
            words += [
                "--site",
                f"{participant.spec.site_name}={self._dataset(participant)}={self.work.folder(participant)}",
            ]
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(threads)}
        return Command((sys.executable, "-m", "fedstudy_trainer", *words), environment, out)

    def _dataset(self, participant: SiteParticipant) -> Path:
        folder = self.folder / "arms" / "datasets" / participant.spec.site_name
        folder.mkdir(parents=True, exist_ok=True)
        files = dataset_configuration(participant, self.work.dataset(participant))["data"]
        (folder / "dataset.json").write_text(files["dataset.json"])
        return folder
