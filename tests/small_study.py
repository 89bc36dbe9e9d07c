"""The smallest study there is, IDH from age by a linear model: for tests that need a study, whatever it is about."""

from __future__ import annotations

from typing import Any

from fedstudy.plan import StudyPlan


def spec(**changes: Any) -> dict[str, Any]:
    """A FederatedStudy's spec, of two rounds; it names no sites."""
    return {
        "purpose": "DUO:0000007",
        "task": {
            "type": "Classification",
            "covariates": [{"name": "age"}],
            "target": {"label": "idh", "classes": ["wildtype", "mutant"]},
        },
        "model": {"network": {"name": "Linear"}},
        "training": {"localEpochs": 1, "optimizer": {"learningRate": 0.1}},
        "federation": {"rounds": 2},
        **changes,
    }


def plan(**changes: Any) -> StudyPlan:
    """Its plan."""
    compiled = {"study": "glioma", "uid": "u-1", "preprocessing": {}, "augmentation": {}, "cohort": {}}
    return StudyPlan.model_validate({**spec(), **compiled, **changes})
