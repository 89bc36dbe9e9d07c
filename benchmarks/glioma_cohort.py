"""The real TCGA glioma table as hospitals: one folder and one manifest each, ready for `fedstudy run`.

The table is not part of this repository (see shared/realdata/README.md). Nothing is invented but the split: in each
hospital and class every fifth patient, in order of name, tests; the others train.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fedstudy_operator import scaffold

TABLE = Path("tcga-glioma") / "tcga_glioma_clinical.csv"
SPELLINGS = {
    "Milan - Italy, Fondazione IRCCS Instituto Neuroligico C. Besta": "Fondazione-Besta",
    "MD Anderson": "MD Anderson Cancer Center",
}
LEAST = 14
"""Patients that make a hospital a site of its own. With both spellings merged this gives 17 hospitals and `other`,
the 18 sites of the methods' section 6; 15, which is said there, gives them only with Besta counted twice."""

PURPOSE = "DUO:0000007"
OTHER = "other"
COVARIATES: dict[str, dict[str, Any]] = {
    "age": {"name": "age"},
    "sex": {"name": "sex", "categories": ["female", "male"]},
    "kps": {"name": "kps"},
    "grade": {"name": "grade", "categories": ["G2", "G3", "G4"]},
    "idh": {"name": "idh", "categories": ["WT", "Mutant"]},
    "codel": {"name": "codel", "categories": ["non-codel", "codel"]},
}
IDH_TASK: dict[str, Any] = {
    "type": "Classification",
    "covariates": [COVARIATES[name] for name in ("age", "sex", "kps", "grade")],
    "target": {"label": "idh", "classes": ["WT", "Mutant"]},
}
SURVIVAL_TASK: dict[str, Any] = {
    "type": "Survival",
    "covariates": [COVARIATES[name] for name in ("age", "sex", "grade", "idh", "codel")],
    "target": {"time": "os_months", "event": "dead"},
    "loss": "StratifiedCox",
}


def patients(realdata: Path, task: Mapping[str, Any]) -> pd.DataFrame:
    """The patients that a task can use, with the columns `site` and `split` (train or test).

    Complete for the target and all covariates but the performance status (KPS), which 314 of 926 lack and which a
    study imputes by the mean over all sites, with an indicator.
    """
    table = pd.read_csv(realdata / TABLE)
    needed = [c["name"] for c in task["covariates"] if c["name"] != "kps"]
    target = task["target"]
    outcome = target.get("label", target.get("event"))
    table = table.dropna(subset=[*needed, outcome, *([target["time"]] if "time" in target else [])])
    table["os_months"] = table["os_months"].clip(lower=0.03)
    hospital = table["site_name"].str.strip().replace(SPELLINGS)
    counts = hospital.value_counts()
    table["site"] = [_slug(name) if counts[name] >= LEAST else OTHER for name in hospital]
    table = table.sort_values(["site", outcome, "patient"], kind="stable").reset_index(drop=True)
    turn = table.groupby(["site", outcome]).cumcount()
    table["split"] = ["test" if n % 5 == 4 else "train" for n in turn]
    return table


def write(
    out: Path,
    table: pd.DataFrame,
    task: Mapping[str, Any],
    training: Mapping[str, Any],
    federation: Mapping[str, Any],
) -> list[str]:
    """Write OUT/data/<site>/participants.tsv and OUT/manifests/*.yaml; the names of the sites."""
    sites = sorted(table["site"].unique())
    columns = ["patient", *(c["name"] for c in task["covariates"]), *_target_columns(task), "split"]
    for site, rows in table.groupby("site"):
        folder = out / "data" / str(site)
        folder.mkdir(parents=True)
        shown = rows[columns].rename(columns={"patient": "participant_id"})
        shown.to_csv(folder / "participants.tsv", sep="\t", index=False, na_rep="n/a")
    name = "real-glioma"
    spec = {
        "title": "Gliomas of the Cancer Genome Atlas, at their hospitals",
        "purpose": PURPOSE,
        "task": dict(task),
        "model": {"network": {"name": "Linear"}},
        "training": dict(training),
        "federation": {"minSites": len(sites), "roundTimeoutSeconds": 600, **federation},
    }
    scaffold.write(out / "manifests" / "study.yaml", [scaffold.study(name, spec, sites)], "The hub's study.")
    policy = {
        "purposes": [PURPOSE], "algorithms": ["*"], "networks": ["Linear"], "minSites": 2,
        "requireSecureAggregation": False, "minCellCount": 5,
    }  # fmt: skip
    dataset = {"format": "Table", "table": "participants.tsv"}
    for site in sites:
        objects = scaffold.hospital(site, name, dataset, policy, {"release": "Never", "threads": 1})
        scaffold.write(out / "manifests" / f"{site}.yaml", objects, f"{site}: its data and its part.")
    return sites


def _target_columns(task: Mapping[str, Any]) -> list[str]:
    return [str(task["target"][part]) for part in ("label", "time", "event") if part in task["target"]]


def _slug(name: str) -> str:
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return "-".join(words)[:40].strip("-")
