"""The model card: what the model is, what it was trained on, how well it does, and what it must not be used for."""

from __future__ import annotations

import json

from fedstudy.results import Results

_SHOWN = ("auc", "auc_within", "c_index", "c_index_within", "accuracy", "brier", "log_loss")


def model_card(results: Results) -> str:
    """Markdown in the order that model cards have (Mitchell 2019): model, use, data, evaluation, limits, lineage."""
    plan = json.loads(results.plan)
    task, target = plan["task"], plan["task"]["target"]
    predicts = (
        f"`{target['label']}` ({', '.join(target['classes'])})"
        if "label" in target
        else f"`{target['time']}` with event `{target['event']}`"
    )
    metrics = "\n".join(
        f"| {name} | {_shown(results.metrics, name)} |" for name in _SHOWN if name in results.metrics
    )
    sites = "\n".join(f"| {s.site} | {s.samples} | {s.rounds} |" for s in results.sites)
    return f"""# {results.title or results.study}

## Model
- Network: {plan["model"]["network"]["name"]} {json.dumps(plan["model"]["network"]["arguments"])}
- Inputs: images {", ".join(task["images"]) or "none"}; covariates {", ".join(c["name"] for c in task["covariates"]) or "none"}
- Predicts: {predicts}
- Trained by {results.algorithm} over {len(results.sites)} sites in {len(results.rounds)} rounds; no patient's data left a site.
- File: `model.safetensors`, {results.model_digest}, after round {results.model_round}. Covariates go in as they are in the
  table; standardisation and imputation are part of the model (`constant.covariate.mean`, `constant.covariate.scale`).

## Intended use
Research under purpose {plan["purpose"]}. Not a medical device; not for decisions about patients.

## Training data
| site | training cases | rounds |
| --- | --- | --- |
{sites}

## Evaluation (held-out test splits at the sites, from sums, without pooling)
| metric | value (95 % interval) |
| --- | --- |
{metrics}

## Limits
Performance by site differs; see `report.html`. Patients of hospitals, scanners or populations that did not take part may differ from those that did.

## Lineage
- Plan: {results.plan_digest}
- History of the aggregator: `history.db`; what left each hospital: `sites/<site>/ledger.jsonl`.
- Software: {", ".join(f"{name} {version}" for name, version in results.software.items()) or "see results.json"}
"""


def _shown(metrics: dict[str, float], name: str) -> str:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    interval = f" ({low:.3f}–{high:.3f})" if low is not None and high is not None else ""
    return f"{metrics[name]:.3f}{interval}"
