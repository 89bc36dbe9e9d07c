"""Is the phantom cohort as hard as real gliomas? Prints each acceptance figure of the methods' section 9 beside its band.

Run: ``python benchmarks/phantom_acceptance.py [--profile demo] [--epochs 18] [--seeds 1]``. Tables only take seconds;
the small CNN is trained on the pooled training patients of all sites that hold labels, and scored on their tests.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from lifelines import CoxPHFitter
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from fedstudy_trainer.data.phantom import PROFILES, CohortProfile, SiteProfile, draw_patients, oracle_features
from fedstudy_trainer.data.phantom.clinical import Patient
from fedstudy_trainer.data.phantom.profiles import SEQUENCES
from fedstudy_trainer.data.phantom.scanner import affine
from fedstudy_trainer.data.phantom.writer import draw_images, split_patients

BANDS = {
    "age-only AUC": (0.78, 0.88),
    "oracle hand-feature LR AUC": (0.92, 0.97),
    "small CNN pooled AUC": (0.88, 0.95),
    "Cox all C": (0.78, 0.83),
    "Cox age only C": (0.70, 0.77),
    "Cox within wildtype C": (0.62, 0.70),
}
CLINICAL = ("age", "male", "g3", "g4", "idh", "codel")
IMAGING = ("log_et", "necrosis")


def survival_table(patients: Sequence[Patient]) -> pd.DataFrame:
    """Survival, clinical columns and the two imaging columns of the survival model."""
    return pd.DataFrame(
        {
            "months": [p.os_months for p in patients],
            "dead": [p.dead for p in patients],
            "age": [p.age for p in patients],
            "male": [float(p.sex == "male") for p in patients],
            "g3": [float(p.grade == 3) for p in patients],
            "g4": [float(p.grade == 4) for p in patients],
            "idh": [float(p.mutant) for p in patients],
            "codel": [float(p.subtype == "mutC") for p in patients],
            "log_et": [float(np.log(p.volumes.et_cc + 0.1)) for p in patients],
            "necrosis": [p.volumes.necrosis_cc / p.volumes.whole_cc for p in patients],
        }
    )


def cox_concordance(table: pd.DataFrame, columns: Sequence[str]) -> float:
    """Harrell's C of a Cox model on these columns (large sample: fitted and scored on the same patients)."""
    fitted = CoxPHFitter(penalizer=1e-4).fit(table[["months", "dead", *columns]], "months", "dead")
    return float(fitted.concordance_index_)


def table_figures(n: int, seed: int) -> dict[str, float]:
    """All figures that need no image, from ``n`` patients of one large mixed hospital."""
    patients = draw_patients(SiteProfile("acceptance", n, 0.40), seed=seed)
    label = np.array([p.record.idh == "mutant" for p in patients])
    features, half = oracle_features(patients), n // 2
    oracle = make_pipeline(StandardScaler(), LogisticRegression()).fit(features[:half], label[:half])
    table = survival_table(patients)
    wildtype = table[table["idh"] == 0]
    return {
        "age-only AUC": float(roc_auc_score(label, -features[:, -1])),
        "oracle hand-feature LR AUC": float(
            roc_auc_score(label[half:], oracle.predict_proba(features[half:])[:, 1])
        ),
        "Cox all C": cox_concordance(table, (*CLINICAL, *IMAGING)),
        "Cox age only C": cox_concordance(table, ("age",)),
        "Cox within wildtype C": cox_concordance(wildtype, ("age", "male", "g3", "g4", *IMAGING)),
    }


class SmallCnn(nn.Module):
    """Four 3-D convolutions with GroupNorm, average and maximum pooling, one logit; 0.14 M parameters."""

    def __init__(self, widths: Sequence[int] = (16, 32, 48, 64)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = len(SEQUENCES)
        for depth, width in enumerate(widths):
            stride = 2 if depth == 0 else 1
            layers += [nn.Conv3d(before, width, 3, stride, 1, bias=False), nn.GroupNorm(8, width), nn.ReLU()]
            if depth < len(widths) - 1:
                layers.append(nn.MaxPool3d(2))
            before = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * before, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (batch, 4, x, y, z) to logits (batch,)."""
        maps = self.features(images).flatten(2)
        logits: torch.Tensor = self.head(torch.cat([maps.mean(2), maps.amax(2)], 1))[:, 0]
        return logits


def load_pooled(profile: CohortProfile, seed: int) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Images z-scored inside the brain on the thin-slice grid, and by patient: label, split, site, marked.

    Sites without labels are left out.
    """
    images: list[np.ndarray] = []
    facts: dict[str, list[object]] = {"label": [], "split": [], "site": [], "marked": []}
    for site in profile.sites:
        if site.survival_only:
            continue
        patients = draw_patients(site, seed=seed)
        for patient, split in zip(patients, split_patients(site, patients, seed=seed), strict=True):
            stored, missing = draw_images(site, patient, grid=profile.grid, seed=seed)
            images.append(
                _normalised(stored, missing, spacing=affine(site, profile.grid)[2, 2], profile=profile)
            )
            facts["label"].append(patient.record.idh == "mutant")
            facts["split"].append("outside" if site.name == "outside" else split)
            facts["site"].append(site.name)
            facts["marked"].append(patient.marked)
    return torch.from_numpy(np.stack(images)), {name: np.array(values) for name, values in facts.items()}


def _normalised(
    stored: np.ndarray, missing: frozenset[str], *, spacing: float, profile: CohortProfile
) -> np.ndarray:
    out = np.zeros((len(SEQUENCES), *(profile.grid,) * 3), dtype=np.float32)
    wanted = (np.arange(profile.grid) - (profile.grid - 1) / 2) * profile.voxel_mm
    slices = stored.shape[-1]
    nearest = np.clip(np.rint(wanted / spacing + (slices - 1) / 2), 0, slices - 1).astype(int)
    for index, sequence in enumerate(SEQUENCES):
        if sequence not in missing:
            volume = stored[index].astype(np.float32)
            inside = volume > 0
            values = volume[inside]
            low, high = np.percentile(values, (0.5, 99.5))
            volume = np.where(inside, (volume.clip(low, high) - values.mean()) / values.std(), 0.0)
            out[index] = volume[..., nearest]
    return out


def jittered(images: torch.Tensor) -> torch.Tensor:
    """Each sequence of each patient a little brighter and steeper or flatter; outside the brain stays 0."""
    slope, shift = 0.1 * torch.randn(2, *images.shape[:2], 1, 1, 1)
    return torch.where(images != 0, images * (1 + slope) + shift, 0.0)


def cnn_figures(profile: CohortProfile, *, epochs: int, seed: int) -> dict[str, float]:
    """Test AUC of the small CNN trained on the pooled sites (and at the outside site, where there is one)."""
    images, facts = load_pooled(profile, seed)
    labels, splits, sites = facts["label"], facts["split"], facts["site"]
    truth = torch.from_numpy(labels.astype(np.float32))
    torch.manual_seed(seed)
    model = SmallCnn()
    train = np.flatnonzero(splits == "train")
    steps = epochs * -(-len(train) // 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        model.train()
        order = rng.permutation(train)
        for start in range(0, len(order), 8):
            batch = order[start : start + 8]
            inputs = images[batch].flip(2) if rng.random() < 0.5 else images[batch]
            inputs = jittered(inputs)
            loss = nn.functional.binary_cross_entropy_with_logits(model(inputs), truth[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        score = torch.cat([model(images[i : i + 16]) for i in range(0, len(images), 16)]).numpy()
    figures = {
        "small CNN pooled AUC": float(roc_auc_score(labels[splits == "test"], score[splits == "test"]))
    }
    for site in dict.fromkeys(sites):
        chosen = (sites == site) & np.isin(splits, ("test", "outside"))
        # A site of one class has no AUC of its own.
        if len(np.unique(labels[chosen])) == 2:
            figures[f"  small CNN at {site}"] = float(roc_auc_score(labels[chosen], score[chosen]))
    outside = splits == "outside"
    if facts["marked"][outside].any():
        # .5: the mark, which means nothing outside, does not move the score.
        figures["  mark's pull outside"] = float(roc_auc_score(facts["marked"][outside], score[outside]))
    figures["  small CNN training AUC"] = float(roc_auc_score(labels[train], score[train]))
    return figures


def main() -> None:
    """Print the acceptance table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=sorted(PROFILES), action="append")
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--grid", type=int)
    parser.add_argument("--patients", type=int, default=6000, help="sample size of the table figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    _print("tables", [table_figures(options.patients, seed) for seed in seeds])
    for name in options.profile or ["demo"]:
        profile = PROFILES[name].with_grid(options.grid or PROFILES[name].grid)
        start = time.perf_counter()
        runs = [cnn_figures(profile, epochs=options.epochs, seed=seed) for seed in seeds]
        _print(f"{name}, {options.epochs} epochs, {profile.grid}^3", runs)
        print(f"  ({(time.perf_counter() - start) / options.seeds:.0f} s a seed)", flush=True)


def _print(title: str, runs: Sequence[dict[str, float]]) -> None:
    print(f"{title}: mean of {len(runs)} seeds [lowest..highest]")
    for name in runs[0]:
        values = [run[name] for run in runs]
        low, high = BANDS.get(name, (float("nan"), float("nan")))
        band = "" if name not in BANDS else f"  band {low:.2f}..{high:.2f}"
        verdict = (
            "" if name not in BANDS else ("  ok" if low <= float(np.mean(values)) <= high else "  OUTSIDE")
        )
        print(f"  {name:28s} {np.mean(values):.3f} [{min(values):.3f}..{max(values):.3f}]{band}{verdict}")


if __name__ == "__main__":
    main()
