"""Before anything starts: what is to run, with which folders, and whether it can."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedstudy.errors import ManifestError
from fedstudy_operator import manifests
from fedstudy_operator.api import FederatedStudy, SiteDataset, SiteParticipant
from fedstudy_operator.cluster import Object


@dataclass(frozen=True)
class Options:
    """What `fedstudy run` was told.

    Attributes:
        paths: manifests, or folders of them.
        out: folder of results.
        volumes: claim → folder, as given with --volume.
        arms: federated, local, pooled.
        resume: go on with what is in `out`.
        as_json: progress and results as JSON.
        threads: of each trainer; None: as the manifests say.
        start_timeout: seconds to wait for sites, a quorum, or room on a disk before giving up.
    """

    paths: tuple[Path, ...]
    out: Path
    volumes: Mapping[str, Path]
    arms: tuple[str, ...] = ("federated",)
    resume: bool = False
    as_json: bool = False
    threads: int | None = None
    start_timeout: float = 600.0


@dataclass(frozen=True)
class Work:
    """What is to run.

    Attributes:
        objects: as they go into the cluster.
        studies, participants, datasets: the same, read.
        claims: (namespace, claim) → folder.
    """

    objects: tuple[Object, ...]
    studies: tuple[FederatedStudy, ...]
    participants: tuple[SiteParticipant, ...]
    datasets: tuple[SiteDataset, ...]
    claims: Mapping[tuple[str, str], Path]

    def sites(self, study: FederatedStudy) -> list[SiteParticipant]:
        """The participants of a study, in order of site name."""
        meta = study.metadata
        mine = [
            p
            for p in self.participants
            if p.spec.study.name == meta.name and p.spec.study.namespace == meta.namespace
        ]
        return sorted(mine, key=lambda p: p.spec.site_name)

    def dataset(self, participant: SiteParticipant) -> SiteDataset:
        """The dataset that a participant takes part with."""
        namespace, name = participant.metadata.namespace, participant.spec.dataset_ref
        return next(d for d in self.datasets if (d.metadata.namespace, d.metadata.name) == (namespace, name))

    def folder(self, participant: SiteParticipant) -> Path:
        """The folder with a participant's data."""
        volume = self.dataset(participant).spec.volume
        root = self.claims[participant.metadata.namespace, volume.persistent_volume_claim]
        return root / volume.sub_path if volume.sub_path else root


def prepare(options: Options) -> Work:
    """Read the manifests and find the folders.

    Raises:
        ManifestError: anything that makes the run impossible; all of it at once.
    """
    found, faults = manifests.read(options.paths)
    _refuse(faults)
    objects = tuple(_with_threads(_with_namespace(m.content), options.threads) for m in found)
    work = Work(
        objects=objects,
        studies=tuple(FederatedStudy.model_validate(o) for o in objects if o["kind"] == "FederatedStudy"),
        participants=tuple(
            SiteParticipant.model_validate(o) for o in objects if o["kind"] == "SiteParticipant"
        ),
        datasets=tuple(SiteDataset.model_validate(o) for o in objects if o["kind"] == "SiteDataset"),
        claims={},
    )
    claims, missing = _claims(work.datasets, options)
    _refuse([*_unrunnable(work, found), *missing])
    return Work(work.objects, work.studies, work.participants, work.datasets, claims)


def read_studies(paths: Sequence[Path]) -> list[FederatedStudy]:
    """The studies among some manifests, whatever else is missing.

    Raises:
        ManifestError: a manifest is wrong, or there is no study.
    """
    found, faults = manifests.read(paths)
    _refuse(faults)
    studies = [m for m in found if m.kind == "FederatedStudy"]
    if not studies:
        _refuse([manifests.Fault(found[0].file, 0, "", "There is no FederatedStudy here.", "Add the study.")])
    return [FederatedStudy.model_validate(_with_namespace(m.content)) for m in studies]


@contextmanager
def results_folder(options: Options) -> Iterator[Path]:
    """The folder of results, made and locked; its `state` is what --resume goes on from.

    Raises:
        ManifestError: it belongs to another run, or there is nothing to resume.
    """
    state = options.out / "state"
    if options.resume and not state.is_dir():
        raise ManifestError(f"There is nothing to resume in {options.out}.", "Run without --resume.")
    if not options.resume and (state.exists() or (options.out / "results.json").exists()):
        raise ManifestError(
            f"{options.out} holds an earlier run.",
            "Go on with it by --resume, give another --out, or remove it.",
        )
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise ManifestError(
            f"The folder of results {options.out} cannot be made: {error.strerror}.", "Give another --out."
        ) from None
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ManifestError(
                f"Another `fedstudy run` works in {options.out}.", "Wait for it, or stop it."
            ) from None
        lock.write(str(os.getpid()))
        lock.flush()
        yield state


def _refuse(faults: Sequence[manifests.Fault]) -> None:
    if faults:
        lines = "\n".join(f"  {fault}" for fault in faults)
        raise ManifestError(f"{len(faults)} fault{'s' if len(faults) > 1 else ''} in the manifests:\n{lines}")


def _unrunnable(work: Work, found: Sequence[manifests.Manifest]) -> Iterator[manifests.Fault]:
    """What a cluster would wait for, but one machine can never get."""
    by_name = {(m.kind, m.namespace, m.name): m for m in found}
    if not work.studies:
        yield manifests.Fault(
            found[0].file, 0, "", "There is no FederatedStudy among the manifests.", "Add the study."
        )
    for participant in work.participants:
        manifest = by_name["SiteParticipant", participant.metadata.namespace, participant.metadata.name]
        if participant.spec.study.hub is not None:
            yield manifest.fault(
                ("spec", "study", "hub"),
                "a study in another cluster cannot be run here.",
                "Name its namespace instead.",
            )
        elif not any(
            (d.metadata.namespace, d.metadata.name)
            == (participant.metadata.namespace, participant.spec.dataset_ref)
            for d in work.datasets
        ):
            yield manifest.fault(
                ("spec", "datasetRef"), f"no SiteDataset {participant.spec.dataset_ref!r} in its namespace."
            )
    for study in work.studies:
        manifest = by_name["FederatedStudy", study.metadata.namespace, study.metadata.name]
        here = {p.spec.site_name for p in work.sites(study)}
        absent = [s.name for s in study.spec.sites if s.required and s.name not in here]
        if absent:
            yield manifest.fault(
                ("spec", "sites"), f"{absent[0]} is required, but no SiteParticipant here is {absent[0]}."
            )
        if len(here) < study.spec.federation.min_sites:
            yield manifest.fault(
                ("spec", "federation", "minSites"),
                f"is {study.spec.federation.min_sites}, but only {len(here)} of the sites have a SiteParticipant here.",
            )


def _claims(
    datasets: Sequence[SiteDataset], options: Options
) -> tuple[dict[tuple[str, str], Path], list[manifests.Fault]]:
    claims: dict[tuple[str, str], Path] = {}
    faults = []
    for dataset in datasets:
        claim = dataset.spec.volume.persistent_volume_claim
        places = [path / "data" / claim for path in options.paths if path.is_dir()]
        given = options.volumes.get(claim)
        folder = given or next((place for place in places if place.is_dir()), None)
        if folder is None or not folder.is_dir():
            where = str(given or (places[0] if places else "PATH/data/" + claim))
            faults.append(
                manifests.Fault(
                    where,
                    0,
                    "",
                    f"The folder for the volume claim {claim!r} is not there.",
                    f"Give it by --volume {claim}=FOLDER.",
                )
            )
        else:
            claims[dataset.metadata.namespace, claim] = folder.resolve()
    return claims, faults


def _with_namespace(obj: Object) -> Object:
    return {**obj, "metadata": {"namespace": "default", **obj["metadata"]}}


def _with_threads(obj: Object, threads: int | None) -> Object:
    if threads is None or obj["kind"] != "SiteParticipant":
        return obj
    spec = obj["spec"]
    return {**obj, "spec": {**spec, "trainer": {**(spec.get("trainer") or {}), "threads": threads}}}
