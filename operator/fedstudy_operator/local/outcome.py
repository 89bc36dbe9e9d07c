"""What a finished study leaves in RESULTS: results, model, card, report, history, and each site's ledger."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedstudy.agent.ledger import verify
from fedstudy.aggregator import report as aggregator_report
from fedstudy.results import Arm, ProcessPeak, Results, SiteRecord
from fedstudy_operator.report.write import write_results


def write_outcome(
    out: Path,
    *,
    aggregator: Path,
    agents: Mapping[str, Path],
    profiles: Mapping[str, Mapping[str, int | None]],
    arms: Sequence[Arm],
    peaks: Mapping[str, int],
    peak_total: int,
) -> Results:
    """Write everything and return the results.

    Args:
        out: RESULTS of this study.
        aggregator: the aggregator's state folder.
        agents: site → its agent's state folder.
        profiles: site → counts of its preflight.
        peaks: process → bytes.
        peak_total: of all processes at one time.
    """
    out.mkdir(parents=True, exist_ok=True)
    aggregator_report.export(aggregator, out)
    results = aggregator_report.collect(aggregator)
    heads = {site: _copy_ledger(folder, out / "sites" / site) for site, folder in agents.items()}
    memory = [ProcessPeak(process="all together", peak_bytes=peak_total)]
    memory += [ProcessPeak(process=name, peak_bytes=peaks[name]) for name in sorted(peaks)]
    results = results.model_copy(
        update={
            "sites": [_with_site(record, heads, profiles) for record in results.sites],
            "arms": list(arms),
            "memory": memory,
        }
    )
    write_results(out, results)
    return results


def _with_site(
    record: SiteRecord, heads: Mapping[str, str], profiles: Mapping[str, Mapping[str, int | None]]
) -> SiteRecord:
    found = {"ledger_head": heads.get(record.site, ""), "profile": dict(profiles.get(record.site, {}))}
    return record.model_copy(update=found)


def _copy_ledger(agent: Path, to: Path) -> str:
    """Copy a site's ledger and check its chain; its head."""
    source = agent / "ledger.jsonl"
    if not source.exists():
        return ""
    to.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, to / "ledger.jsonl")
    return verify(to / "ledger.jsonl").hash
