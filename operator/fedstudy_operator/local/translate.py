"""A container's command on this machine: mount paths, Service names and ports rewritten in its arguments and environment. Pure."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedstudy_operator.local.processes import Command

MODULES: Mapping[str, str] = {
    "fedstudy-aggregator": "fedstudy.aggregator",
    "fedstudy-agent": "fedstudy.agent",
    "fedstudy-trainer": "fedstudy_trainer",
}
"""Commands of the images → the modules that they are."""

PASSED_ON = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
"""What of our own environment a container needs to find Python, its libraries and its GPU."""

_SERVICE = re.compile(
    r"(?<![\w.\-])([a-z0-9](?:[a-z0-9\-]*[a-z0-9])?)\.([a-z0-9](?:[a-z0-9\-]*[a-z0-9])?)\.svc(?:\.cluster\.local)?:(\d+)"
)
_LISTEN = re.compile(r"(?<![\d.])0\.0\.0\.0:(\d+)")


@dataclass(frozen=True)
class Places:
    """Where the parts of a pod are on this machine.

    Attributes:
        mounts: path in the container → folder.
        ports: port of the container → loopback port.
        service: (Service, namespace, port) → loopback port.
        home: a folder of the pod's own.
    """

    mounts: Mapping[str, Path]
    ports: Mapping[int, int]
    service: Callable[[str, str, int], int]
    home: Path


def rewrite(text: str, places: Places) -> str:
    """A string of a container in the terms of this machine."""
    if places.mounts:
        paths = "|".join(re.escape(path.rstrip("/")) for path in sorted(places.mounts, key=len, reverse=True))
        folders = {path.rstrip("/"): str(folder) for path, folder in places.mounts.items()}
        pattern = rf"(^|(?<=[=:,\s]))({paths})(?=$|[/:,\s])"
        text = re.sub(pattern, lambda m: folders[m[2]], text)
    text = _LISTEN.sub(lambda m: f"127.0.0.1:{places.ports.get(int(m[1]), int(m[1]))}", text)
    return _SERVICE.sub(lambda m: f"127.0.0.1:{places.service(m[1], m[2], int(m[3]))}", text)


def resolve(address: str, service: Callable[[str, str, int], int]) -> str:
    """An address of a Service in the terms of this machine; any other address as it is."""
    return _SERVICE.sub(lambda m: f"127.0.0.1:{service(m[1], m[2], int(m[3]))}", address)


def translate(container: Mapping[str, Any], places: Places, own: Mapping[str, str]) -> Command:
    """The command that a container is on this machine.

    Args:
        container: of a pod's spec; env entries with a plain value are taken.
        places: where its parts are.
        own: our own environment, of which a few variables are passed on.
    """
    written = [*(container.get("command") or []), *(container.get("args") or [])]
    words = [
        rewrite(word, places) for word in written
    ]  # before our own Python, which may be under a mount's name
    if words and words[0] in MODULES:
        words = [sys.executable, "-m", MODULES[words[0]], *words[1:]]
    elif words and words[0] in ("python", "python3"):
        words = [sys.executable, *words[1:]]
    declared = {
        entry["name"]: rewrite(str(entry["value"]), places)
        for entry in container.get("env") or []
        if "value" in entry
    }
    environment = {
        **{name: own[name] for name in PASSED_ON if name in own},
        "HOME": str(places.home),
        "TMPDIR": str(places.home),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": declared.get("FEDSTUDY_THREADS", "1"),
        **declared,
    }
    environment.setdefault("LANG", "C.UTF-8")
    return Command(tuple(words), environment, places.home)
