"""Names, types and labels of the metrics are a promise: dashboards and alerts hold on to them. docs/metrics.md is the list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from tests.operator.test_children_fit_the_hospitals_cluster import a_study

from fedstudy.agent.board import Board
from fedstudy.agent.figures import AgentFigures
from fedstudy.aggregator.engine import Engine
from fedstudy.aggregator.enrolment import Enrolments
from fedstudy.aggregator.figures import AggregatorFigures
from fedstudy.aggregator.state import SitesSet
from fedstudy.metrics import histogram
from fedstudy.plan import StudyPlan
from fedstudy.wire.admin import SiteProgress
from fedstudy_operator.pki import make_authority

_ROW = re.compile(r"\| `(fedstudy_\w+)` \| (\w+) \| ([\w, ]*) ?\| .*\|")


def promised(repository: Path, heading: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name → type and labels, of a section."""
    text = (repository / "docs" / "metrics.md").read_text()
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return {m[1]: (m[2], tuple(m[3].replace(",", " ").split())) for m in _ROW.finditer(section)}


def shown(metrics: list[Metric]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name → type and labels, of what a collector gives."""
    found = {}
    for metric in metrics:
        labels = {name for sample in metric.samples for name in sample.labels} - {"le"}
        found[metric.name] = (metric.type, tuple(sorted(labels)))
    return found


def an_engine(folder: Path) -> tuple[Engine, StudyPlan]:
    study = a_study(sites=[{"name": "north"}])
    plan = study.plan()
    return Engine(plan, folder / "state", sites=["north"]), plan


def certificate(folder: Path) -> Path:
    path = folder / "tls.crt"
    path.write_text(make_authority("x", 2).certificate_pem)
    return path


def test_the_aggregators(tmp_path: Path, repository: Path) -> None:
    engine, _ = an_engine(tmp_path)
    engine.record_refusal("", "", "not TLS")
    engine.record_refusal("site/north", "Submit 0001-000-train-north", "too long")
    engine.record_refusal("site/south", "/fedstudy.v1.Federation/Offer", "not invited")
    with engine.store._transaction():  # a closed stage with an answer, and a validation metric
        engine.store.db.execute(
            "INSERT INTO stages VALUES ('0001-000-train', 'train', 1, 0, 10.0, 12.5, '{}')"
        )
        engine.store.db.execute(
            "INSERT INTO answers VALUES ('i', '0001-000-train', 'north', 'sha256:0', 1, 1, 0, 1, 1.0, NULL, NULL, '')"
        )
    engine.metrics = {"metrics": {"auc": 0.9}, "round": 1, "sites": []}
    collector = AggregatorFigures(engine, Enrolments(engine), certificate(tmp_path))
    metrics = list(collector.collect())
    assert shown(metrics) == promised(repository, "Aggregator")
    values = {m.name: {tuple(s.labels.values()): s.value for s in m.samples} for m in metrics}
    assert values["fedstudy_refusals"] == {("Handshake",): 1, ("Submit",): 1, ("Offer",): 1}
    assert values["fedstudy_updates_accepted"] == {("train",): 1}
    assert values["fedstudy_rounds"] == {(): 2}
    assert values["fedstudy_validation"] == {("auc",): 0.9}
    assert sum(values["fedstudy_phase"].values()) == 1
    stage = next(m for m in metrics if m.name == "fedstudy_stage_seconds")
    buckets = {s.labels["le"]: s.value for s in stage.samples if s.name.endswith("_bucket")}
    assert (buckets["1.0"], buckets["5.0"], buckets["+Inf"]) == (0, 1, 1)
    engine.close()
    assert list(collector.collect()) == []


def test_a_revoked_site_is_not_shown_as_lost(tmp_path: Path) -> None:
    engine, _ = an_engine(tmp_path)
    engine.store.seen("north")
    engine.apply(SitesSet(engine.clock(), (), ()))
    metrics = {m.name: m for m in AggregatorFigures(engine, Enrolments(engine), tmp_path / "no").collect()}
    assert metrics["fedstudy_site_connected"].samples == []
    assert "fedstudy_certificate_not_after_seconds" not in metrics
    engine.close()


def test_the_agents(tmp_path: Path, repository: Path) -> None:
    board = Board()
    board.update(
        enrolled=True,
        certificate_not_after="2027-01-01T00:00:00Z",
        metrics={"auc": 0.8},
        progress=SiteProgress(samples_done=3, samples_total=9, loss=0.4, samples_per_second=2.0),
        ledger_head=f"7:{'0' * 64}",
        bytes_sent=123,
        trainer_last_seen="2027-01-01T00:00:00Z",
        trainer_silent=True,
    )
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "x").write_bytes(bytes(1000))
    metrics = list(AgentFigures(board, tmp_path, lambda: 5).collect())
    assert shown(metrics) == promised(repository, "Agent")
    values = {m.name: m.samples[0].value for m in metrics}
    assert values["fedstudy_certificate_not_after_seconds"] == 1_798_761_600
    assert (values["fedstudy_trainer_last_seen_seconds"], values["fedstudy_trainer_silent"]) == (
        1_798_761_600,
        1,
    )
    assert (values["fedstudy_ledger_entries"], values["fedstudy_sent_bytes"]) == (7, 123)
    assert (values["fedstudy_refusals"], values["fedstudy_store_bytes"]) == (5, 1000)


@pytest.mark.parametrize("state", ["new", "enrolled"])
def test_an_agent_that_has_nothing_yet_can_be_scraped(tmp_path: Path, state: str) -> None:
    board = Board()
    board.update(enrolled=state == "enrolled")
    registry = CollectorRegistry()
    registry.register(AgentFigures(board, tmp_path, lambda: 0))
    assert b"fedstudy_hub_connected 0.0" in generate_latest(registry)


def test_a_histogram_counts_each_value_once() -> None:
    family = histogram("x", "x", "", {"": [0.5, 1.0, 7.0]}, (1.0, 5.0))
    found = {(s.name, s.labels.get("le")): s.value for s in family.samples}
    assert found == {
        ("x_bucket", "1.0"): 2,
        ("x_bucket", "5.0"): 2,
        ("x_bucket", "+Inf"): 3,
        ("x_count", None): 3,
        ("x_sum", None): 8.5,
    }
