"""Losses against straightforward references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from fedstudy.measures import cox_terms, hazard_nll
from fedstudy.plan import Weights
from fedstudy_trainer.data.batches import Batch
from fedstudy_trainer.tasks.classification import Classification, site_weights
from fedstudy_trainer.tasks.cox import StratifiedCox, log_likelihood
from fedstudy_trainer.tasks.hazard import DiscreteHazard

SURVIVAL = st.lists(
    st.tuples(st.integers(1, 6), st.booleans(), st.floats(-4, 4, width=32)), min_size=1, max_size=25
)


def batch(
    *, labels: list[int] | None = None, times: list[float] | None = None, events: list[int] | None = None
) -> Batch:
    n = len(labels or times or [])
    return Batch(
        indices=torch.arange(n),
        images=None,
        presence=None,
        covariates=None,
        labels=None if labels is None else torch.tensor(labels),
        times=None if times is None else torch.tensor(times, dtype=torch.float32),
        events=None if events is None else torch.tensor(events),
    )


@settings(deadline=None)
@given(SURVIVAL)
def test_the_cox_loss_is_the_partial_likelihood_of_the_measures(
    patients: list[tuple[int, bool, float]],
) -> None:
    times = np.array([t for t, _, _ in patients], dtype=np.float64)
    events = np.array([int(e) for _, e, _ in patients])
    risk = torch.tensor([r for _, _, r in patients], dtype=torch.float64, requires_grad=True)
    value = log_likelihood(risk, times, events)
    value.backward()  # type: ignore[no-untyped-call]
    reference = cox_terms(risk.detach().numpy()[:, None], times, events, np.ones(1))
    np.testing.assert_allclose(float(value.detach()), reference["newton.loglik"][0], rtol=1e-9, atol=1e-9)
    assert risk.grad is not None
    along = float(risk.grad @ risk.detach())  # dl/dβ at β = 1 of the covariate η
    np.testing.assert_allclose(along, reference["newton.gradient"][0], rtol=1e-7, atol=1e-8)


def test_efrons_ties_by_hand() -> None:
    eta = np.array([0.3, -0.2, 0.5, 0.1])
    theta = np.exp(eta)
    value = log_likelihood(torch.tensor(eta), np.array([1.0, 1.0, 2.0, 1.0]), np.array([1, 1, 0, 0]))
    everyone, dying = theta.sum(), theta[0] + theta[1]
    expected = eta[0] + eta[1] - np.log(everyone) - np.log(everyone - dying / 2)
    assert float(value) == pytest.approx(expected, abs=1e-12)


def test_strata_have_risk_sets_of_their_own() -> None:
    outputs = torch.tensor([[0.3], [-0.2], [0.5], [0.1], [1.0]])
    times, events = [3.0, 1.0, 2.0, 4.0, 1.0], [1, 1, 1, 0, 1]
    whole = StratifiedCox(Weights.SAMPLES, np.array([0, 1, 0, 1, 1])).loss(
        outputs, batch(times=times, events=events)
    )
    apart = 0.0
    for rows in ([0, 2], [1, 3, 4]):
        part = batch(times=[times[i] for i in rows], events=[events[i] for i in rows])
        apart += float(StratifiedCox(Weights.SAMPLES, None).loss(outputs[rows], part)) * len(rows) / 5
    assert float(whole) == pytest.approx(apart, abs=1e-6)


@pytest.mark.parametrize("weights", list(Weights))
def test_a_batch_without_events_is_exactly_zero_and_moves_nothing(weights: Weights) -> None:
    outputs = torch.tensor([[0.3], [2.0]], requires_grad=True)
    loss = StratifiedCox(weights, None).loss(outputs, batch(times=[1.0, 2.0], events=[0, 0]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0.0
    assert outputs.grad is not None and bool((outputs.grad == 0).all())


def test_extreme_risks_stay_finite() -> None:
    outputs = torch.tensor([[900.0], [-900.0], [0.0]], requires_grad=True)
    loss = StratifiedCox(Weights.SAMPLES, None).loss(outputs, batch(times=[1.0, 3.0, 2.0], events=[1, 1, 1]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert bool(torch.isfinite(loss)) and outputs.grad is not None
    assert bool(torch.isfinite(outputs.grad).all())


@settings(deadline=None)
@given(SURVIVAL)
def test_the_hazard_loss_is_the_likelihood_written_out(patients: list[tuple[int, bool, float]]) -> None:
    cuts = torch.tensor([1.0, 2.5, 4.0])
    times, events = [float(t) for t, _, _ in patients], [int(e) for _, e, _ in patients]
    outputs = torch.tensor([[r, -r, r / 2, 0.1] for _, _, r in patients])
    expected = 0.0
    for row, t, died in zip(torch.sigmoid(outputs.double()).numpy(), times, events, strict=True):
        kappa = sum(t > float(cut) for cut in cuts)
        expected -= sum(np.log1p(-row[:kappa]))
        expected -= np.log(row[kappa]) if died else np.log1p(-row[kappa])
    loss = DiscreteHazard(cuts).loss(outputs, batch(times=times, events=events))
    assert float(loss) == pytest.approx(expected / len(patients), rel=1e-5, abs=1e-6)
    hazards = torch.sigmoid(outputs.double()).numpy()
    measured = hazard_nll(hazards, np.array(times), np.array(events), cuts.double().numpy())
    assert measured == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_cross_entropy_is_scikit_learns_for_one_logit_and_for_three() -> None:
    one = torch.tensor([[0.4], [-1.2], [2.0]])
    p = torch.sigmoid(one[:, 0].double()).numpy()
    loss = Classification(torch.ones(2)).loss(one, batch(labels=[1, 1, 0]))
    assert float(loss) == pytest.approx(log_loss([1, 1, 0], np.stack([1 - p, p], axis=1)), abs=1e-6)
    three = torch.tensor([[0.4, 0.0, 1.0], [-1.0, 0.5, 0.0]])
    expected = log_loss([2, 0], torch.softmax(three.double(), 1).numpy(), labels=[0, 1, 2])
    assert float(Classification(torch.ones(3)).loss(three, batch(labels=[2, 0]))) == pytest.approx(
        expected, abs=1e-6
    )


def test_site_balance_lets_every_class_of_the_site_pull_equally() -> None:
    weights = site_weights(np.array([0, 0, 0, 1]), 3)
    np.testing.assert_allclose(weights.numpy() * [3, 1, 0], [4 / 3, 4 / 3, 0], rtol=1e-6)
