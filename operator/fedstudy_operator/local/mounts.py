"""Volumes of a pod as folders: ConfigMaps and Secrets written out (and rewritten at once), scratch, and claims."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedstudy_operator.cluster import Cluster, Key, NotFoundError, Object


class MountError(Exception):
    """A volume cannot be made yet.

    Args:
        reason: Kubernetes' word for it, or ClaimNotFound.
        message: which volume, and what to do.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def files_of(obj: Object) -> dict[str, bytes]:
    """The files that a ConfigMap or a Secret is."""
    encoded = {**(obj.get("binaryData") or {})}
    plain = {**(obj.get("stringData") or {})}
    (encoded if obj["kind"] == "Secret" else plain).update(obj.get("data") or {})
    return {
        **{name: base64.b64decode(value) for name, value in encoded.items()},
        **{name: str(value).encode() for name, value in plain.items()},
    }


def write_files(folder: Path, files: Mapping[str, bytes], *, mode: int) -> bool:
    """Make a folder hold exactly these files, all changed at once, as a kubelet does. Returns whether anything changed.

    The files are links through `..data`, itself a link to the folder of the present version, which is replaced in one step.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    data = folder / "..data"
    if data.is_symlink() and {p.name: p.read_bytes() for p in data.iterdir()} == dict(files):
        return False
    old = folder / data.readlink() if data.is_symlink() else None
    number = int(old.name.removeprefix("..v")) + 1 if old else 1
    new = folder / f"..v{number}"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    for name, content in files.items():
        path = new / name
        path.touch(mode=mode)
        path.write_bytes(content)
    link = folder / "..data.new"
    link.unlink(missing_ok=True)
    link.symlink_to(new.name)
    link.replace(data)
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    for path in folder.iterdir():
        if not path.name.startswith("..") and path.name not in files:
            path.unlink()
    if old is not None:
        shutil.rmtree(old)
    return True


@dataclass(frozen=True)
class Volumes:
    """Makes the volumes of pods under a work folder.

    Attributes:
        work: `volumes/<namespace>/<claim>` and `pods/<namespace>/<pod>` are below it.
        claims: (namespace, claim) → an existing folder, for data.
    """

    cluster: Cluster
    work: Path
    claims: Mapping[tuple[str, str], Path]

    def pod_folder(self, namespace: str, pod: str) -> Path:
        """A pod's own folder, which lives as long as the pod."""
        return self.work / "pods" / namespace / pod

    async def mounts(self, pod: Object, container: Mapping[str, Any]) -> dict[str, Path]:
        """Path in the container → folder, all of them written out.

        Raises:
            MountError: an object or a claim is not there.
        """
        folders: dict[str, Path] = {
            v["name"]: await self._folder(pod, v) for v in pod["spec"].get("volumes") or []
        }
        result: dict[str, Path] = {}
        for mount in container.get("volumeMounts") or []:
            folder = folders[mount["name"]]
            result[mount["mountPath"]] = folder / mount["subPath"] if mount.get("subPath") else folder
        return result

    async def refresh(self, pod: Object) -> None:
        """Write out again what has changed; what has gone stays as it was, as in a kubelet."""
        for volume in pod["spec"].get("volumes") or []:
            if "configMap" in volume or "secret" in volume:
                try:
                    await self._folder(pod, volume)
                except MountError:
                    continue

    async def _folder(self, pod: Object, volume: Mapping[str, Any]) -> Path:
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        folder = self.pod_folder(namespace, name) / "volumes" / str(volume["name"])
        if "configMap" in volume:
            source = volume["configMap"]
            await self._write(Key("ConfigMap", namespace, source["name"]), folder, source, 0o644)
        elif "secret" in volume:
            source = volume["secret"]
            await self._write(Key("Secret", namespace, source["secretName"]), folder, source, 0o600)
        elif "persistentVolumeClaim" in volume:
            return self._claim(namespace, str(volume["persistentVolumeClaim"]["claimName"]), pod)
        elif "emptyDir" in volume:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        else:
            raise MountError(
                "UnsupportedVolume", f"volume {volume['name']}: no kind of volume that is known here"
            )
        return folder

    async def _write(self, key: Key, folder: Path, source: Mapping[str, Any], mode: int) -> None:
        try:
            files = files_of(await self.cluster.get(key))
        except NotFoundError:
            if not source.get("optional"):
                raise MountError("CreateContainerConfigError", f"{key} is not there") from None
            files = {}
        write_files(folder, files, mode=mode)

    def _claim(self, namespace: str, claim: str, pod: Object) -> Path:
        if claim in (pod["metadata"].get("annotations") or {}).get("fedstudy.io/made-claims", "").split(","):
            folder = self.work / "volumes" / namespace / claim
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            return folder
        found = self.claims.get((namespace, claim))
        if found is None:
            raise MountError(
                "ClaimNotFound",
                f"no folder was given for the claim {claim} of namespace {namespace}: --volume {claim}=FOLDER",
            )
        if not found.is_dir():
            raise MountError("ClaimNotFound", f"the folder of the claim {claim}, {found}, is not there")
        return found
