"""Commands of other programs, run to their end: their output, or an error that has what they said."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.cluster.build import binary


class CommandError(RuntimeError):
    """kubectl or helm failed; the message has what it said."""


def kubectl(kubeconfig: Path, *words: str, stdin: str | None = None, check: bool = True) -> str:
    """Run kubectl; its output.

    Raises:
        CommandError: it failed, unless `check` is False.
    """
    command = [str(binary("hyperkube")), "kubectl", f"--kubeconfig={kubeconfig}", *words]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise CommandError(f"kubectl {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def helm(kubeconfig: Path, *words: str) -> str:
    """Run helm; its output.

    Raises:
        CommandError: it failed.
    """
    command = [str(binary("helm")), f"--kubeconfig={kubeconfig}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(f"helm {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def run(*command: str) -> str:
    """Run any command; its output.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout
