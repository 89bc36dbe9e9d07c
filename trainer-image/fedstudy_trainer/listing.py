"""Writes phantom cohorts and lists networks: the words of `fedstudy-trainer` that need no agent and no data."""

from __future__ import annotations

from pathlib import Path

from fedstudy.errors import DataError
from fedstudy_trainer.data.phantom import PROFILES, SiteSummary, write_cohort, write_hospital


async def phantom(out: Path, profile: str, seed: int, scale: float, site: str = "") -> None:
    """Write a cohort of phantom patients and say what was written, a line for each hospital.

    Args:
        site: one hospital alone, into ``out`` itself.

    Raises:
        DataError: the profile is unknown, the folder holds a cohort already, or seed or scale make no sense.
    """
    if profile not in PROFILES:
        raise DataError(f"There is no phantom profile {profile!r}.", f"Choose one of {', '.join(PROFILES)}.")
    if not 0 < scale <= 100:
        raise DataError(
            f"The phantom scale is {scale:g}.", "Choose a number above 0, 1 for the profile's own size."
        )
    chosen = PROFILES[profile] if scale == 1 else PROFILES[profile].scaled(scale)
    if site:
        _say(write_hospital(out, profile=chosen, site=site, seed=seed))
        return
    for written in write_cohort(out, profile=chosen, seed=seed).sites:
        _say(written)


def _say(site: SiteSummary) -> None:
    print(
        f"{site.name}: {site.patients} patients, {site.mutants} IDH-mutant, {site.deaths} deaths, "
        f"{site.images} images of {'×'.join(map(str, site.shape))} voxels ({site.images_missing} missing)",
        flush=True,
    )


async def networks() -> None:
    """List the networks that a plan may name, each with its arguments and their defaults."""
    from fedstudy_trainer.networks.registry import ARCHITECTURES

    for name, architecture in ARCHITECTURES.items():
        taken = ", ".join(f"{key}={argument.default}" for key, argument in architecture.arguments.items())
        print(f"{name}({taken})")
