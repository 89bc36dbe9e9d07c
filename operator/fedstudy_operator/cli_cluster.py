"""The words of the commands that work on a cluster: `kubectl fedstudy status`, and the same as `fedstudy status`."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.live import Live

from fedstudy.errors import ConnectionLostError, ManifestError
from fedstudy_operator.commands.where import Where

if TYPE_CHECKING:
    from fedstudy_operator.commands.access import Access

F = TypeVar("F", bound=Callable[..., Any])
WATCH_SECONDS = 2.0
_KINDS = {"study": "FederatedStudy", "participant": "SiteParticipant"}


def cluster_options(command: F) -> F:
    """The options that kubectl has too, as one argument `where`."""

    def gathered(*args: Any, namespace: str, context: str, kubeconfig: str, **rest: Any) -> Any:
        return command(*args, where=Where(namespace, context, kubeconfig), **rest)

    gathered.__name__, gathered.__doc__ = command.__name__, command.__doc__
    gathered.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for decorate in (
        click.option("--kubeconfig", default="", help="Kubeconfig file."),
        click.option("--context", default="", help="Context of the kubeconfig."),
        click.option(
            "--namespace", "-n", default="", help="Namespace; as kubectl has it where none is said."
        ),
    ):
        gathered = decorate(gathered)
    return gathered  # type: ignore[return-value]


def reach(where: Where, work: Callable[[Access], Coroutine[Any, Any, Any]]) -> Any:
    """Do something with a cluster."""
    from fedstudy_operator.commands.access import access

    async def run() -> Any:
        async with access(where) as way:
            return await work(way)

    return asyncio.run(run())


@click.command()
@click.argument("name", required=False, default="")
@click.option("--watch", "-w", is_flag=True, help="Go on showing it, until Ctrl-C.")
@click.option("--all-namespaces", "-A", "everywhere", is_flag=True, help="Of all namespaces.")
@cluster_options
def status(name: str, watch: bool, everywhere: bool, where: Where) -> None:
    """Show how studies and participants are getting on; with NAME that one, with its sites."""
    from fedstudy_operator.commands.status import look

    console = Console()

    async def once(way: Access) -> Any:
        return await look(way, name, everywhere=everywhere)

    async def live(way: Access) -> None:
        with Live(await once(way), console=console, auto_refresh=False) as shown:
            while True:
                await asyncio.sleep(WATCH_SECONDS)
                shown.update(await once(way), refresh=True)

    if not watch:
        console.print(reach(where, once))
        return
    try:
        reach(where, live)
    except KeyboardInterrupt:
        sys.exit(130)


def print_offered(name: str, where: Where) -> None:
    """Print the plan that is offered to a participant."""
    from fedstudy_operator.commands.plan import describe, offered

    async def work(way: Access) -> str:
        return describe(*await offered(way, name))

    click.echo(reach(where, work))


@click.command()
@click.argument("participant")
@click.option("--digest", required=True, help="Digest of the plan that you have read, whole.")
@click.option("--not-after", default="", help="When the approval ends, for example 2027-01-31T23:59:59Z.")
@click.option("--force", is_flag=True, help="Take the approval over from whoever keeps it.")
@cluster_options
def approve(participant: str, digest: str, not_after: str, force: bool, where: Where) -> None:
    """Approve the plan that is offered to PARTICIPANT, by its digest and under your name."""
    from fedstudy_operator.commands.approve import approve as work

    click.echo(reach(where, lambda way: work(way, participant, digest, not_after, force=force)))


@click.command()
@click.argument("study")
@click.argument("site")
@click.option(
    "--site-namespace", default="", help="Namespace in the hospital's cluster. Default: the site's name."
)
@cluster_options
def invite(study: str, site: str, site_namespace: str, where: Where) -> None:
    """Print the manifests with which SITE joins STUDY. They hold a secret: send them over a safe channel."""
    from fedstudy_operator.commands.invite import invite as work

    click.echo(reach(where, lambda way: work(way, study, site, site_namespace or site)), nl=False)
    click.echo("This is a secret: encrypt it before it goes into Git.", err=True)


@click.command()
@click.argument("study")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path, file_okay=False), help="Folder. Default: ./STUDY-results."
)
@cluster_options
def results(study: str, out: Path | None, where: Where) -> None:
    """Fetch model, results, history, report and model card of STUDY from its aggregator."""
    from fedstudy_operator.commands.results import fetch_results

    reach(where, lambda way: fetch_results(way, study, out or Path(f"{study}-results"), click.echo))


@click.command()
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="Go on, until Ctrl-C.")
@click.option(
    "--tail", default=200, show_default=True, type=click.IntRange(-1), help="Lines of each pod; -1: all."
)
@cluster_options
def logs(name: str, follow: bool, tail: int, where: Where) -> None:
    """Print the logs of all processes of a study or a participant: aggregator, agent, preflight, trainer."""
    from fedstudy_operator.children.common import PARTICIPANT, STUDY, label_value

    kind, namespace = reach(where, lambda way: _kind_of(way, name))
    label = STUDY if kind == "FederatedStudy" else PARTICIPANT
    kubectl = os.environ.get("KUBECTL") or shutil.which("kubectl")
    if kubectl is None:
        raise ConnectionLostError("kubectl is not on the PATH.", "Install it, or set KUBECTL to it.")
    words = [*kubectl.split(), *Where(namespace, where.context, where.kubeconfig).words, "logs", "--prefix"]
    words += [f"--selector={label}={label_value(name)}", f"--tail={tail}", "--max-log-requests=50"]
    try:
        sys.exit(subprocess.call([*words, *(["--follow"] if follow else [])]))
    except KeyboardInterrupt:
        sys.exit(130)


@click.command()
@click.argument("name")
@cluster_options
def suspend(name: str, where: Where) -> None:
    """Stop a study after what is under way, or a hospital's part in it: spec.suspend becomes true."""
    _set_suspend(name, where, suspend=True)


@click.command()
@click.argument("name")
@cluster_options
def resume(name: str, where: Where) -> None:
    """Go on with a suspended study or participant: spec.suspend becomes false."""
    _set_suspend(name, where, suspend=False)


@click.command("support-bundle")
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("fedstudy-support.tar.gz"),
    show_default=True,
    help="File to write.",
)
@cluster_options
def support_bundle(out: Path, where: Where) -> None:
    """Collect objects, events, statuses and logs of a namespace into one file, with every secret taken out."""
    from fedstudy_operator.commands.bundle import collect, pack

    files = reach(where, collect)
    click.echo(
        f"{pack(files, out)}: {len(files)} files. Secrets are taken out; look through it before you send it."
    )


async def _kind_of(way: Access, name: str) -> tuple[str, str]:
    """Which kind has that name, and the namespace.

    Raises:
        ManifestError: none, or both.
    """
    found = [kind for kind in _KINDS.values() if await way.find(kind, name) is not None]
    if len(found) == 1:
        return found[0], way.namespace
    if found:
        raise ManifestError(
            f"{name} is a study and a participant in the namespace {way.namespace}.",
            "Use `kubectl patch`, `kubectl logs` with the kind that you mean.",
        )
    raise ManifestError(
        f"There is neither a study nor a participant {name} in the namespace {way.namespace}.",
        f"See `kubectl get fedstudy --namespace {way.namespace}`.",
    )


def _set_suspend(name: str, where: Where, *, suspend: bool) -> None:
    async def work(way: Access) -> str:
        kind, _ = await _kind_of(way, name)
        await way.merge(kind, name, {"spec": {"suspend": suspend}})
        return f"{kind} {name}: {'suspended' if suspend else 'goes on'}"

    click.echo(reach(where, work))


COMMANDS: tuple[click.Command, ...] = (
    status,
    approve,
    invite,
    results,
    logs,
    suspend,
    resume,
    support_bundle,
)
"""All of them, for the group in cli.py."""
