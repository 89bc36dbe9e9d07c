"""What every step of making images needs: the cache outside the tree, keys by content, and commands that say why they failed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]


class ImageError(RuntimeError):
    """An image, or something that it is made of, could not be made."""


def cache() -> Path:
    """The folder of finished images and of what they are made of; it may be deleted at any time."""
    root = Path(os.environ.get("FEDSTUDY_CACHE") or Path.home() / ".cache" / "fedstudy")
    folder = root / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, seconds: int = 1200) -> str:
    """Run a command in the repository's root; its standard output.

    Raises:
        ImageError: it failed or took too long; the end of what it said is in the message.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, cwd=REPOSITORY, env={**os.environ, **(env or {})}, text=True, capture_output=True,
            timeout=seconds, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise ImageError(
            f"{words[0]} is not installed; apt-get install buildah debootstrap busybox-static gcc binutils libc6-dev"
        ) from None
    except subprocess.TimeoutExpired:
        raise ImageError(f"{' '.join(words[:6])} … took more than {seconds} s") from None
    if done.returncode:
        raise ImageError(
            f"{' '.join(words[:6])} … failed with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}"
        )
    return done.stdout


def key(parts: Iterable[str | Path]) -> str:
    """A short hash of texts and of files' contents, folders in full: what is made of them need not be made again."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(b"text\0" + part.encode() + b"\0")
            continue
        for file in _files(part):
            digest.update(
                b"file\0" + file.relative_to(REPOSITORY).as_posix().encode() + b"\0" + file.read_bytes()
            )
    return digest.hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


@contextmanager
def alone() -> Iterator[None]:
    """One maker of images at a time, whichever process it is in: they share a storage."""
    with (cache() / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def buildah(*words: str | Path, seconds: int = 1200) -> str:
    """buildah with a storage of our own within the cache, and with an isolation that works inside a container."""
    return run([*buildah_command(), *words], env={"BUILDAH_ISOLATION": "chroot"}, seconds=seconds)


def buildah_command() -> list[str]:
    """How buildah is called."""
    storage = cache() / "storage"
    return ["buildah", "--root", str(storage), "--runroot", f"{storage}-run"]


def have(image: str) -> bool:
    """Whether the storage has an image of this name."""
    return bool(buildah("images", "--quiet", "--filter", f"reference={image}").strip())


def archive(image: str, target: Path) -> None:
    """Write an image as a docker-archive tar, whole or not at all."""
    part = target.with_suffix(".part")
    part.unlink(missing_ok=True)
    buildah("push", "--quiet", image, f"docker-archive:{part}:{image}")
    part.replace(target)
