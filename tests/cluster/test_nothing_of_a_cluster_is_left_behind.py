"""However a cluster ends, the machine is as it was before: no process, mount, namespace, link, route or cgroup more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster import fixtures
from tests.cluster.control_plane import REPOSITORY

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
PATIENCE = 60.0
POD = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: stays}
spec:
  replicas: 10
  selector: {matchLabels: {app: stays}}
  template:
    metadata: {labels: {app: stays}}
    spec:
      containers:
        - name: main
          image: localhost/busybox:1
          imagePullPolicy: IfNotPresent
          command: [sleep, "3600"]
          volumeMounts: [{name: memory, mountPath: /memory}]
      volumes: [{name: memory, emptyDir: {medium: Memory}}]
"""


@pytest.fixture
def owner() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that owns a cluster in which ten pods run, and the cluster's folder."""
    fixtures.skip_or_fail(fixtures.why_no_node())
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("export KUBECONFIG="), "the cluster did not start"
        kubeconfig = Path(line.strip().partition("=")[2])
        fixtures.OfferedCluster(kubeconfig).kubectl("apply", "-f", "-", stdin=POD)
        fixtures.OfferedCluster(kubeconfig).kubectl("rollout", "status", "deployment/stays", "--timeout=120s")
        yield process, kubeconfig.parent
    finally:
        process.terminate()
        process.wait(PATIENCE)


def left(folder: Path) -> list[str]:
    """What there is of the cluster on this machine, beside its folder."""
    number = folder.name.rpartition("-")[2]
    name = f"fedstudy-{number}"
    found = [line for line in Path("/proc/mounts").read_text().splitlines() if f"{folder}/" in line]
    for entry in Path("/proc").iterdir():
        if (
            entry.name.isdigit()
            and (words := _command_line(entry))
            and (str(folder) in words or f"guard\0{number}\0" in words)
        ):
            found.append(words.replace("\0", " "))
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{name}")]
    found += [line for line in _said("ip", "netns") if line.split()[0] == name]
    found += [line for line in _said("ip", "-o", "link") if f" fed{number}@" in line]
    found += [line for line in _said("ip", "route") if f".{number}.0/24 " in line and line.startswith("10.2")]
    found += [str(record) for record in Path("/var/lib/cni/results").glob(f"{name}-*")]
    found += [
        str(link)
        for link in Path("/var/log/containers").glob("*")
        if str(link.readlink()).startswith(f"{folder}/")
    ]
    return found


def pod_namespaces() -> set[str]:
    """Network namespaces of pods, of any cluster."""
    return {line.split()[0] for line in _said("ip", "netns") if line.startswith("cni-")}


def _said(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _command_line(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def until_nothing_is_left(folder: Path, before: set[str]) -> None:
    """Wait for the end of it all; say what stayed."""
    end = time.monotonic() + PATIENCE
    while seen := [*left(folder), *(pod_namespaces() & before)]:
        if time.monotonic() > end:
            raise AssertionError("left behind:\n" + "\n".join(seen))
        time.sleep(0.2)


def namespaces_of(folder: Path) -> set[str]:
    """Network namespaces of a running cluster's pods."""
    command = ["nsenter", f"--net=/run/netns/fedstudy-{folder.name.rpartition('-')[2]}", "ip", "-o", "link"]
    links = " ".join(_said(*command))
    return {name for name in pod_namespaces() if name in links}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["asked", "killed"])
@pytest.mark.timeout(600)
def test_nothing_is_left_when_the_owner_ends(
    owner: tuple[subprocess.Popen[str], Path], number: signal.Signals
) -> None:
    process, folder = owner
    assert left(folder), "a running cluster is seen"
    mine = namespaces_of(folder)
    assert len(mine) > 10, "the pods' namespaces are seen"
    os.kill(process.pid, number)
    process.wait(PATIENCE)
    until_nothing_is_left(folder, mine)


@pytest.mark.timeout(600)
def test_nothing_is_left_when_the_guardian_was_killed(owner: tuple[subprocess.Popen[str], Path]) -> None:
    process, folder = owner
    mine, word = namespaces_of(folder), f"guard\0{folder.name.rpartition('-')[2]}\0"
    (guardian,) = [entry for entry in Path("/proc").iterdir() if word in _command_line(entry)]
    os.kill(int(guardian.name), signal.SIGKILL)
    process.terminate()
    process.wait(PATIENCE)
    until_nothing_is_left(folder, mine)
