"""Images that need no registry: Debian with Python as the base of ours, and pause and busybox for the test cluster."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tests.cluster.images.tool import archive, buildah, cache, have, key, run

SUITE = "bookworm"
"""Debian 12; its python3 is 3.11."""
PYTHON = (3, 11)
PAUSE, BUSYBOX = "localhost/pause:1", "localhost/busybox:1"
_LAYOUT = "1"
"""Raise it when a base made earlier must not be used any more."""
_UNNEEDED = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "var/log",
    "usr/share/python-wheels",
)


def base() -> str:
    """Name of the base image, made with debootstrap where the storage lacks it."""
    name = f"localhost/fedstudy-base:{SUITE}-{_LAYOUT}"
    if not have(name):
        with tempfile.TemporaryDirectory(dir=cache()) as scratch:
            root = Path(scratch) / "root"
            run(["debootstrap", "--variant=minbase", "--include=python3,ca-certificates", SUITE, root])
            for folder in _UNNEEDED:
                shutil.rmtree(root / folder, ignore_errors=True)
                (root / folder).mkdir(parents=True)
            _commit(name, {root: "/"}, ["--cmd", "python3", "--env", "PATH=/usr/local/bin:/usr/bin:/bin"])
    return name


def pause() -> Path:
    """Archive of the image of every pod's first container."""
    source = Path(__file__).with_name("pause.c")
    target = cache() / "pause.tar"
    stamp = key([source])
    if not _is_of(target, stamp):
        with tempfile.TemporaryDirectory() as scratch:
            binary = Path(scratch) / "pause"
            run(["cc", "-static", "-Os", "-s", "-o", binary, source])
            _commit(PAUSE, {binary: "/pause"}, ["--entrypoint", '["/pause"]', "--user", "65535:65535"])
        archive(PAUSE, target)
        _mark(target, stamp)
    return target


def busybox() -> Path:
    """Archive of an image with busybox's commands in /bin."""
    target = cache() / "busybox.tar"
    binary = Path(shutil.which("busybox") or "/bin/busybox")
    stamp = key([str(binary.stat().st_size), _LAYOUT])
    if not _is_of(target, stamp):
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            root.chmod(0o755)
            for folder in ("bin", "etc", "root", "tmp"):
                (root / folder).mkdir()
            (root / "tmp").chmod(0o1777)
            shutil.copy2(binary, root / "bin" / "busybox")
            for applet in run([binary, "--list"]).split():
                if applet != "busybox":
                    (root / "bin" / applet).symlink_to("busybox")
            (root / "etc" / "passwd").write_text(
                "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
            )
            _commit(BUSYBOX, {root: "/"}, ["--cmd", "/bin/sh", "--env", "PATH=/bin"])
        archive(BUSYBOX, target)
        _mark(target, stamp)
    return target


def _commit(name: str, files: dict[Path, str], config: list[str]) -> None:
    container = buildah("from", "scratch").strip()
    try:
        for source, target in files.items():
            buildah("copy", "--quiet", container, source, target)
        buildah("config", *config, container)
        buildah("commit", "--quiet", container, name)
    finally:
        buildah("rm", container)


def _is_of(target: Path, stamp: str) -> bool:
    note = target.with_suffix(".key")
    return target.is_file() and note.is_file() and note.read_text() == stamp


def _mark(target: Path, stamp: str) -> None:
    target.with_suffix(".key").write_text(stamp)
