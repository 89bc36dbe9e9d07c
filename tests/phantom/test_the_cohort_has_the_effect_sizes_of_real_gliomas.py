"""Statistical acceptance on large tables without images: the bands of the methods' section 9."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.utils import concordance_index
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedstudy_trainer.data.phantom import (
    ORACLE_FEATURES,
    Patient,
    SiteProfile,
    draw_patients,
    oracle_features,
)

CLINICAL = ["age", "male", "g3", "g4", "idh", "codel"]
IMAGING = ["log_et", "necrosis"]


@pytest.fixture(scope="module")
def patients() -> list[Patient]:
    return draw_patients(SiteProfile("large", 6000, 0.40), seed=11)


@pytest.fixture(scope="module")
def survival(patients: list[Patient]) -> pd.DataFrame:
    rows = [
        {
            "months": p.os_months,
            "dead": p.dead,
            "age": p.age,
            "male": float(p.sex == "male"),
            "g3": float(p.grade == 3),
            "g4": float(p.grade == 4),
            "idh": float(p.mutant),
            "codel": float(p.subtype == "mutC"),
            "log_et": np.log(p.volumes.et_cc + 0.1),
            "necrosis": p.volumes.necrosis_cc / p.volumes.whole_cc,
        }
        for p in patients
    ]
    return pd.DataFrame(rows)


def labels(patients: list[Patient]) -> NDArray[np.bool_]:
    return np.array([p.record.idh == "mutant" for p in patients])


def cox(table: pd.DataFrame, columns: list[str]) -> float:
    model = CoxPHFitter(penalizer=1e-4).fit(table[["months", "dead", *columns]], "months", "dead")
    return float(model.concordance_index_)


def test_age_alone_tells_idh_as_well_as_in_tcga(patients: list[Patient]) -> None:
    age = np.array([p.age for p in patients])
    assert 0.78 <= roc_auc_score(labels(patients), -age) <= 0.88


def test_a_perfect_radiologist_with_logistic_regression_reaches_the_published_ceiling(
    patients: list[Patient],
) -> None:
    features, label = oracle_features(patients), labels(patients)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(features[:3000], label[:3000])
    assert 0.92 <= roc_auc_score(label[3000:], model.predict_proba(features[3000:])[:, 1]) <= 0.97


def test_survival_is_as_predictable_as_published(survival: pd.DataFrame) -> None:
    assert 0.78 <= cox(survival, CLINICAL + IMAGING) <= 0.83
    assert 0.70 <= concordance_index(survival["months"], -survival["age"], survival["dead"]) <= 0.77


def test_within_wildtype_survival_is_hard_to_predict(survival: pd.DataFrame) -> None:
    wildtype = survival[survival["idh"] == 0]
    assert 0.62 <= cox(wildtype, ["age", "male", "g3", "g4", *IMAGING]) <= 0.70


def test_about_half_of_the_patients_die_under_observation(survival: pd.DataFrame) -> None:
    assert 0.42 <= survival["dead"].mean() <= 0.60


@pytest.mark.parametrize(
    ("quantity", "wildtype", "mutant", "tolerance"),
    [
        ("whole_cc", 90.0, 125.0, 16.0),
        ("core_share", 0.36, 0.54, 0.03),
        ("et_share", 0.74, 0.06, 0.06),
        ("enhances", 0.94, 0.53, 0.03),
        ("frontal", 0.25, 0.55, 0.05),
    ],
)
def test_volumes_enhancement_and_place_follow_the_recipe(
    patients: list[Patient], quantity: str, wildtype: float, mutant: float, tolerance: float
) -> None:
    def value(p: Patient) -> float:
        return {
            "whole_cc": p.volumes.whole_cc,
            "core_share": p.volumes.core_cc / p.volumes.whole_cc,
            "et_share": p.volumes.et_cc / p.volumes.core_cc,
            "enhances": float(p.volumes.et_cc > 1.0),
            "frontal": float(p.look.lobe == "frontal"),
        }[quantity]

    middle = np.mean if quantity in {"enhances", "frontal"} else np.median
    assert middle([value(p) for p in patients if not p.mutant]) == pytest.approx(wildtype, abs=tolerance)
    assert middle([value(p) for p in patients if p.mutant]) == pytest.approx(mutant, abs=tolerance)


def test_enhancement_is_the_main_cue_and_t1_a_weak_one(patients: list[Patient]) -> None:
    def effect(values: list[float]) -> float:
        truth = np.array([p.mutant for p in patients])
        mutant, wildtype = np.array(values)[truth], np.array(values)[~truth]
        return float((mutant.mean() - wildtype.mean()) / np.sqrt((mutant.var() + wildtype.var()) / 2))

    assert effect([p.volumes.et_cc / p.volumes.core_cc for p in patients]) == pytest.approx(-2.2, abs=0.45)
    assert effect([p.look.t1_core for p in patients]) == pytest.approx(-0.7, abs=0.15)
    assert effect([p.look.t1gd_core for p in patients]) == pytest.approx(-0.76, abs=0.15)


def test_t2_flair_mismatch_is_specific_and_not_sensitive(patients: list[Patient]) -> None:
    share = {
        s: np.mean([p.look.mismatch for p in patients if p.subtype == s]) for s in ("wt", "mutN", "mutC")
    }
    assert share["mutN"] == pytest.approx(0.40, abs=0.05)
    assert max(share["wt"], share["mutC"]) <= 0.035


def test_the_oracle_gives_one_finite_row_of_named_features_a_patient(patients: list[Patient]) -> None:
    features = oracle_features(patients[:50])
    assert features.shape == (50, len(ORACLE_FEATURES))
    assert np.isfinite(features).all()
    assert oracle_features([]).shape == (0, len(ORACLE_FEATURES))
