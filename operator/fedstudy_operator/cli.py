"""`fedstudy`: the command line. Each command only translates words into a call and an outcome into an exit code."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import click
from rich.console import Console

from fedstudy import __version__
from fedstudy.errors import FedstudyError, ManifestError
from fedstudy_operator import cli_cluster, manifests
from fedstudy_operator.commands.where import Where

PATHS = click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="fedstudy")
def cli() -> None:
    """Hospitals train one model on all their cancer images together, and no image leaves a hospital.

    \b
    fedstudy phantom OUT      make a cohort of phantom glioma patients with ready manifests
    fedstudy run OUT          train a model across its hospitals, here, on one machine
    fedstudy report RESULTS   write the report of a study

    \b
    On a cluster, also as `kubectl fedstudy …`:
    status, plan, approve, invite, results, logs, suspend, resume, support-bundle

    Exit codes: 0 done, 1 a fault of fedstudy, 2 wrong words, 3 a manifest is wrong, 4 data do not fit, 5 plan,
    6 refused by policy or approval, 7 an update was refused, 8 a peer is out of reach, 9 a disk is full,
    10 a port is in use, 11 the study failed, 130 interrupted (go on with --resume).
    """


@cli.command()
@PATHS
@click.option("--json", "as_json", is_flag=True, help="Print the faults as JSON.")
def validate(paths: tuple[Path, ...], as_json: bool) -> None:
    """Check manifests: every fault at once, with file, line, field and remedy."""
    found, faults = manifests.read(paths)
    if as_json:
        click.echo(json.dumps([vars(fault) for fault in faults], indent=2))
    else:
        for fault in faults:
            click.echo(str(fault), err=True)
        click.echo(f"{len(found)} manifests, {len(faults)} faults")
    if faults:
        sys.exit(ManifestError.exit_code)


@cli.command("plan")
@PATHS
@cli_cluster.cluster_options
def show_plan(paths: tuple[Path, ...], where: Where) -> None:
    """Print a plan: of manifests in PATHS as they run on this machine, or the one that is offered to a SiteParticipant.

    Of files: the digest, which hospitals approve, and the canonical JSON; the digest is the sha256 of exactly that JSON. Of a SiteParticipant
    of the cluster (a name that is no file): in words, what runs, on what, what leaves the hospital, and how it is approved.
    """
    if len(paths) == 1 and not paths[0].exists() and len(paths[0].parts) == 1 and not paths[0].suffix:
        cli_cluster.print_offered(str(paths[0]), where)
        return
    from fedstudy_operator.local.plans import plan_of
    from fedstudy_operator.local.prepare import read_studies

    for study in read_studies(paths):
        document = plan_of(study)
        click.echo(f"{study.metadata.namespace}/{study.metadata.name} {document.digest()}")
        click.echo(document.canonical())


@cli.command()
@PATHS
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), help="Folder of results. Default: PATH/results."
)
@click.option(
    "--volume",
    "volumes",
    multiple=True,
    metavar="CLAIM=FOLDER",
    help="Folder that a volume claim stands for. Default: PATH/data/CLAIM.",
)
@click.option(
    "--arms",
    default="federated",
    show_default=True,
    help="Which arms to run: federated, and the controls local and pooled.",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run; nothing is lost.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Progress as JSON lines, results.json on standard output at the end.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    help="CPU threads of each trainer, in place of what the manifests say.",
)
@click.option(
    "--start-timeout",
    default=600,
    show_default=True,
    type=click.IntRange(1),
    help="Seconds to wait for sites, a quorum, or room on a disk before giving up.",
)
def run(
    paths: tuple[Path, ...],
    out: Path | None,
    volumes: tuple[str, ...],
    arms: str,
    resume: bool,
    as_json: bool,
    threads: int | None,
    start_timeout: int,
) -> None:
    """Run studies on this machine: real processes, real mutual TLS, the same manifests that a cluster takes."""
    from fedstudy_operator.local.prepare import Options
    from fedstudy_operator.local.run import run_studies

    options = Options(
        paths=paths,
        out=(out or (paths[0] if paths[0].is_dir() else paths[0].parent) / "results").resolve(),
        volumes=dict(_assignment(word) for word in volumes),
        arms=_arms(arms),
        resume=resume,
        as_json=as_json,
        threads=threads,
        start_timeout=float(start_timeout),
    )
    asyncio.run(run_studies(options, Console(stderr=as_json)))


@cli.command()
@click.argument("results", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    help="File to write. Default: report.html beside results.json.",
)
def report(results: Path, out: Path | None) -> None:
    """Write the report of a study: one HTML page that needs nothing else."""
    from fedstudy_operator.report.write import write_report

    click.echo(str(write_report(results, out)))


@cli.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--profile", default="demo", show_default=True, help="Which cohort: demo, tiny, full, homogeneous."
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1), help="Same seed, same bytes."
)
@click.option(
    "--scale",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.05, 20),
    help="Factor on the numbers of patients.",
)
@click.option(
    "--task",
    "task",
    default="idh",
    show_default=True,
    type=click.Choice(["idh", "survival"]),
    help="The question of the ready-made study.",
)
@click.option(
    "--algorithm", default="FedAvg", show_default=True, help="Federated algorithm of the ready-made study."
)
def phantom(out: Path, profile: str, seed: int, scale: float, task: str, algorithm: str) -> None:
    """Write a cohort of phantom glioma patients: NIfTI, tables, and manifests that `fedstudy run OUT` takes."""
    from fedstudy_operator.phantom import write_phantom

    for line in write_phantom(out, profile=profile, seed=seed, scale=scale, task=task, algorithm=algorithm):
        click.echo(line)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
def crds(folder: Path) -> None:
    """Write the CustomResourceDefinitions."""
    from fedstudy_operator.api.crd import write_all

    for path in write_all(folder):
        click.echo(str(path))


@cli.command()
def networks() -> None:
    """List the networks that a plan may name."""
    sys.exit(subprocess.call([sys.executable, "-m", "fedstudy_trainer", "networks"]))


@cli.command()
def algorithms() -> None:
    """List the federated algorithms that a plan may name."""
    from fedstudy.aggregator.algorithms import registry

    for name in registry.names():
        click.echo(name)


for _command in cli_cluster.COMMANDS:
    cli.add_command(_command)


def _assignment(word: str) -> tuple[str, Path]:
    claim, sign, folder = word.partition("=")
    if not (claim and sign and folder):
        raise click.BadParameter(f"{word!r} is not CLAIM=FOLDER", param_hint="--volume")
    return claim, Path(folder)


def _arms(words: str) -> tuple[str, ...]:
    arms = tuple(word.strip() for word in words.split(",") if word.strip())
    unknown = [arm for arm in arms if arm not in ("federated", "local", "pooled")]
    if unknown or not arms:
        raise click.BadParameter(
            f"{', '.join(unknown) or words!r}: known are federated, local, pooled", param_hint="--arms"
        )
    return arms


def main() -> None:
    """Entry point: an error that a person can mend is one message and an exit code, never a traceback."""
    try:
        cli(standalone_mode=True)
    except FedstudyError as error:
        click.echo(f"fedstudy: {error.message}", err=True)
        if error.remedy:
            click.echo(f"  → {error.remedy}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
