"""The Go programs of the test cluster, built from the module proxy into the cache: once for each version, by whoever comes first.

.venv/bin/python -m tests.cluster.build [NAME…]        # all without a name; prints where each is
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODULES = Path(__file__).resolve().parent
GO = "1.26.8"
"""What builds them. An older Go serves to fetch this one: from 1.21 on by itself, before that as a module, as here."""
FETCHES_ITSELF = (1, 21)
BUILD_SECONDS = 75 * 60


class BuildError(RuntimeError):
    """A program could not be built."""


@dataclass(frozen=True)
class Program:
    """One binary.

    Args:
        name: of the binary.
        folder: of its Go module beside this file.
        module: whose version (in go.mod) is the binary's version.
        package: what is built.
        cached_as: the cache's folder, without the version; `folder` if empty.
        stamps: variables set by the linker; {version}, {minor} are filled in.
    """

    name: str
    folder: str
    module: str
    package: str = "."
    cached_as: str = ""
    tags: str = ""
    stamps: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """As go.mod requires it, for example v1.34.4."""
        text = (MODULES / self.folder / "go.mod").read_text()
        found = re.search(rf"^(?:require|\t)?\s*{re.escape(self.module)} (v\S+)", text, re.MULTILINE)
        if found is None:
            raise BuildError(f"{self.folder}/go.mod does not require {self.module}")
        return found[1]

    @property
    def path(self) -> Path:
        """Where the binary is, or would be."""
        return cache() / f"{self.cached_as or self.folder}-{self.version}" / self.name

    @property
    def flags(self) -> list[str]:
        """Of `go build`."""
        minor = self.version.split(".")[1]
        variables = [f"-X {stamp.format(version=self.version, minor=minor)}" for stamp in self.stamps]
        return [
            "-trimpath",
            "-buildvcs=false",
            f"-tags={self.tags}",
            "-ldflags=" + " ".join(["-s", "-w", *variables]),
        ]


_VERSION = "k8s.io/component-base/version."
_HELM = "helm.sh/helm/v3/"
PROGRAMS = {
    program.name: program
    for program in (
        Program(
            "hyperkube", "kubernetes", "k8s.io/kubernetes", tags="providerless,osusergo,netgo",
            stamps=(
                _VERSION + "gitVersion={version}", _VERSION + "gitMajor=1", _VERSION + "gitMinor={minor}",
                _VERSION + "gitTreeState=archive", _VERSION + "gitCommit=unknown",
                _VERSION + "buildDate=1970-01-01T00:00:00Z", "k8s.io/client-go/pkg/version.gitVersion={version}",
            ),
        ),
        Program("coredns", "coredns", "github.com/coredns/coredns", tags="osusergo,netgo"),
        Program(
            "helm", "helm", "helm.sh/helm/v3", package="helm.sh/helm/v3/cmd/helm",
            stamps=(
                _HELM + "internal/version.version={version}",
                _HELM + "pkg/lint/rules.k8sVersionMajor=1", _HELM + "pkg/lint/rules.k8sVersionMinor=34",
                _HELM + "pkg/chartutil.k8sVersionMajor=1", _HELM + "pkg/chartutil.k8sVersionMinor=34",
            ),
        ),
        Program("kstatus", "kstatus", "sigs.k8s.io/cli-utils"),
        Program(
            "promtool", "promtool", "github.com/prometheus/prometheus",
            package="github.com/prometheus/prometheus/cmd/promtool", tags="remove_all_sd,osusergo,netgo",
        ),
    )
}  # fmt: skip
"""By name. hyperkube is etcd, kubectl, kubelet and every kube-* in one."""


def cache() -> Path:
    """The folder of finished binaries; it may be deleted at any time."""
    root = Path(os.environ.get("FEDSTUDY_CACHE") or Path.home() / ".cache" / "fedstudy")
    return root / "cluster"


def binary(name: str) -> Path:
    """Path of a program, built now where the cache lacks it; a second caller waits for the first.

    Raises:
        BuildError: no Go, no module proxy, or the build failed.
    """
    program = PROGRAMS[name]
    if not program.path.is_file():
        with _alone(name):
            if not program.path.is_file():
                _build(program)
    return program.path


def why_not() -> str:
    """Why nothing can be built here, or an empty text."""
    return "" if _gos() else "there is no Go: install it, of any version (apt-get install golang-go)"


def _gos() -> dict[Path, tuple[int, ...]]:
    """Every Go that is installed, and its version."""
    places = [*os.environ.get("PATH", "").split(":"), "/usr/local/go/bin"]
    found: dict[Path, tuple[int, ...]] = {}
    for go in dict.fromkeys(Path(place) / "go" for place in places if place):
        if go.is_file():
            words = subprocess.run(
                [go, "env", "GOVERSION"], capture_output=True, text=True, check=False, cwd="/"
            )
            version = re.match(r"go(\d+)\.(\d+)", words.stdout)
            found[go] = (int(version[1]), int(version[2])) if version else (0,)
    return found


def _go() -> Path:
    """A Go that builds our modules, or fetches by itself the one that does."""
    gos = _gos()
    if not gos:
        raise BuildError(why_not())
    for go, version in gos.items():
        if version >= FETCHES_ITSELF:
            return go
    with _alone("go"):
        return _fetch_go(next(iter(gos)))


def _fetch_go(old: Path) -> Path:
    """The wanted Go as a module from the module proxy, checked by its checksum database as every module is."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    module = f"golang.org/toolchain@v0.0.1-go{GO}.linux-{machine}"
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [old, "mod", "download", "-json", module],
            cwd=empty, env={**os.environ, "GOFLAGS": "-mod=mod"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise BuildError(f"Go {GO} could not be fetched with {old}:\n{(done.stdout + done.stderr)[-1000:]}")
    root = Path(json.loads(done.stdout)["Dir"])
    for program in (*(root / "bin").iterdir(), *(root / "pkg/tool").glob("*/*")):
        program.chmod(0o755)  # a module's files are not executable
    return root / "bin" / "go"


def _build(program: Program) -> None:
    go = _go()
    target = program.path
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / program.name
        done = subprocess.run(
            [str(go), "build", *program.flags, "-o", str(made), program.package],
            cwd=MODULES / program.folder,
            env={**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "auto", "GOFLAGS": "-mod=readonly"},
            capture_output=True,
            text=True,
            check=False,
            timeout=BUILD_SECONDS,
        )  # fmt: skip
        if done.returncode:
            raise BuildError(f"go build of {program.name} {program.version} failed:\n{done.stderr[-3000:]}")
        made.replace(target)


@contextmanager
def _alone(name: str) -> Iterator[None]:
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    for asked in sys.argv[1:] or PROGRAMS:
        print(f"{asked}\t{binary(asked)}", flush=True)
