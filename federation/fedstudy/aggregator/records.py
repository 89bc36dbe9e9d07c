"""What of a step goes into the database besides the state: rows of stages, rounds, models, evaluations, and history."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fedstudy.aggregator.folding import Product
from fedstudy.aggregator.state import (
    Closed,
    Closing,
    Effect,
    Kind,
    Opened,
    PhaseChanged,
    RoundClosed,
    Stage,
    State,
)
from fedstudy.aggregator.store import Note, Store

Statement = tuple[str, tuple[Any, ...]]


def notes_of(effects: Sequence[Effect], state: State) -> list[Note]:
    """Rows of the history for the effects of a step."""
    notes: list[Note] = []
    for effect in effects:
        match effect:
            case Opened():
                inputs = {name: blob.digest for name, blob in effect.stage.inputs.items()}
                notes.append(
                    ("StageOpened", {"stage": effect.stage.id, "sites": list(effect.sites), "inputs": inputs})
                )
            case Closed():
                detail = {
                    "stage": effect.stage.id,
                    "sites": sorted(effect.stage.answers),
                    "missing": dict(effect.missing),
                }
                notes.append(("StageClosed", detail))
            case RoundClosed():
                digest = state.model.digest if state.model else ""
                notes.append(
                    ("RoundClosed", {"round": effect.round, "sites": list(effect.sites), "model": digest})
                )
            case PhaseChanged():
                detail = {"phase": effect.phase.value, "reason": effect.reason, "message": effect.message}
                notes.append(("Phase", detail))
            case Closing():
                pass  # told by Closed
    return notes


def statements_of(effects: Sequence[Effect], state: State, now: float) -> list[Statement]:
    """Rows of the stages for the effects of a step."""
    rows: list[Statement] = []
    for effect in effects:
        match effect:
            case Opened(stage=stage):
                rows.append(
                    (
                        "INSERT OR IGNORE INTO stages (stage, kind, round, idx, opened) VALUES (?, ?, ?, ?, ?)",
                        (stage.id, stage.kind.value, stage.round, stage.index, stage.opened),
                    )
                )
            case Closed(stage=stage, missing=missing):
                text = json.dumps(dict(missing), sort_keys=True)
                rows.append(
                    ("UPDATE stages SET closed = ?, missing = ? WHERE stage = ?", (now, text, stage.id))
                )
            case _:
                pass
    return rows


def product_statements(stage: Stage, product: Product) -> list[Statement]:
    """Rows for what a stage gave."""
    rows: list[Statement] = []
    if product.model is not None:
        values = (stage.id, stage.round, product.model.digest, product.model.size)
        rows.append(("INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?)", values))
    if product.evaluation is not None:
        document = product.evaluation.model_dump_json(by_alias=True)
        rows.append(
            (
                "INSERT OR REPLACE INTO evaluations VALUES (?, ?, ?, ?)",
                (stage.id, stage.round, stage.split, document),
            )
        )
    return rows


def round_statement(
    closed: RoundClosed, state: State, store: Store, traffic: tuple[int, int], missing_now: dict[str, str]
) -> Statement:
    """The row of a closed round.

    Args:
        traffic: bytes received and sent during the round.
        missing_now: why sites are missing from the stage that closed last, which is not yet in the database.
    """
    answers = store.round_answers(closed.round, Kind.TRAIN.value)
    weight = sum(row.samples for row in answers if row.loss is not None)
    loss = sum(row.samples * row.loss for row in answers if row.loss is not None) / weight if weight else None
    missing = {**store.round_missing(closed.round, Kind.TRAIN.value), **missing_now}
    missing = {site: why for site, why in missing.items() if site not in closed.sites}
    digest = state.model.digest if state.model else ""
    return (
        "INSERT OR REPLACE INTO rounds VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (closed.round, closed.seconds, json.dumps(closed.sites), json.dumps(missing, sort_keys=True), loss, digest, *traffic),
    )  # fmt: skip
