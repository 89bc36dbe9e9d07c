"""What the aggregator knows of a study's results, read from its folder; the CLI adds arms and memory."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from fedstudy.aggregator import refused
from fedstudy.aggregator.state import STATE, State
from fedstudy.aggregator.store import DATABASE
from fedstudy.aggregator.view import rfc3339
from fedstudy.errors import NoSpaceError, StudyFailedError
from fedstudy.plan import StudyPlan, TaskType
from fedstudy.results import Evaluation, Results, RoundRecord, SiteRecord
from fedstudy.wire.blobs import path_of


def collect(state_folder: Path) -> Results:
    """Everything of results.json that the aggregator knows.

    Raises:
        StudyFailedError: the folder holds no study.
    """
    with closing(_open(state_folder)) as db:
        state, plan = _state(db), _plan(db)
        evaluations = _evaluations(db)
        test = next((e for e in reversed(evaluations) if e.split == "test"), None)
        sent, received = db.execute("SELECT SUM(bytes_out), SUM(bytes_in) FROM sites").fetchone()
        return Results(
            study=plan.study,
            title=plan.title,
            plan_digest=str(plan.digest()),
            plan=plan.canonical().decode(),
            algorithm=plan.federation.algorithm.name,
            task=plan.task.type.value,
            started=rfc3339(state.started),
            seconds=max(0.0, state.finished - state.started) if state.finished and state.started else 0.0,
            rounds=_rounds(db, evaluations),
            sites=_sites(db, state, plan),
            metrics=test.metrics if test is not None else {},
            test=test,
            bytes={"sent": int(sent or 0), "received": int(received or 0)},
            model_digest=state.model.digest if state.model else "",
            model_round=state.model_round,
            software={"fedstudy": version("fedstudy")},
            refusals=refused.total(db),
        )


def export(state_folder: Path, out: Path) -> None:
    """Write `model.safetensors` (where there is a model) and `history.db` into a folder.

    Raises:
        StudyFailedError: the folder holds no study, or its model is gone.
        NoSpaceError: the disk is full.
    """
    out.mkdir(parents=True, exist_ok=True)
    history(state_folder, out)
    with closing(_open(state_folder)) as db:
        state = _state(db)
    if state.model is None:
        return
    source = path_of(state_folder / "blobs", state.model.digest)
    if not source.exists():
        raise StudyFailedError(
            f"The model {state.model.digest} is not in {state_folder}.", "Restore the folder."
        )
    _copy(source, out / "model.safetensors")


def history(state_folder: Path, out: Path) -> Path:
    """Write `history.db` into a folder: the aggregator's database as it is now, whole, also while it works.

    Raises:
        StudyFailedError: the folder holds no study.
    """
    part = out / ".history.db.part"
    part.unlink(missing_ok=True)
    with closing(_open(state_folder)) as db, closing(sqlite3.connect(part)) as copy:
        db.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")
    part.replace(out / "history.db")
    return out / "history.db"


def _copy(source: Path, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.copyfile(source, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(
                f"No space left to write {target}.", "Free some space and try again."
            ) from error
        raise


def _open(folder: Path) -> sqlite3.Connection:
    path = folder / DATABASE
    if not path.exists():
        raise StudyFailedError(f"{folder} holds no study.", "Name the folder that the aggregator worked in.")
    return sqlite3.connect(path)


def _state(db: sqlite3.Connection) -> State:
    row = db.execute("SELECT value FROM meta WHERE key = 'state'").fetchone()
    return STATE.validate_json(row[0]) if row else State()


def _plan(db: sqlite3.Connection) -> StudyPlan:
    return StudyPlan.parse(db.execute("SELECT value FROM meta WHERE key = 'plan'").fetchone()[0].encode())


def _evaluations(db: sqlite3.Connection) -> list[Evaluation]:
    rows = db.execute("SELECT document FROM evaluations ORDER BY round, stage")
    return [Evaluation.model_validate_json(row[0]) for row in rows]


def _rounds(db: sqlite3.Connection, evaluations: list[Evaluation]) -> list[RoundRecord]:
    validation = {e.round: e for e in evaluations if e.split == "validation"}
    rows = db.execute(
        "SELECT round, seconds, sites, missing, loss, model, bytes_in, bytes_out FROM rounds ORDER BY round"
    )
    return [
        RoundRecord(
            round=r[0],
            seconds=r[1],
            sites=json.loads(r[2]),
            missing=json.loads(r[3]),
            loss=r[4],
            model_digest=r[5],
            bytes_in=r[6],
            bytes_out=r[7],
            validation=validation.get(r[0]),
        )
        for r in rows
    ]


def _sites(db: sqlite3.Connection, state: State, plan: StudyPlan) -> list[SiteRecord]:
    traffic = {r[0]: r[1:] for r in db.execute("SELECT site, bytes_in, bytes_out FROM sites")}
    work = {
        r[0]: r[1:]
        for r in db.execute(
            "SELECT site, COUNT(DISTINCT round), SUM(seconds) FROM answers JOIN stages USING (stage)"
            " WHERE kind = 'train' GROUP BY site"
        )
    }
    survival = plan.task.type is TaskType.SURVIVAL
    records = []
    for site in sorted({*state.sites, *traffic}):
        share = state.shares.get(site)
        rounds, seconds = work.get(site, (0, 0.0))
        received, sent = traffic.get(site, (0, 0))
        records.append(
            SiteRecord(
                site=site,
                samples=share.samples if share else 0,
                events=(share.events if share else 0) if survival else None,
                rounds=rounds,
                bytes_sent=received,
                bytes_received=sent,
                seconds_training=seconds,
            )
        )
    return records
