"""What a cluster needs beside the phantom study's manifests: namespaces, and each hospital's claim with a Job that draws its patients.

`fedstudy run` passes over these objects: on one machine a claim is a folder, and the patients are drawn before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedstudy_operator import scaffold
from fedstudy_operator.children import pod
from fedstudy_operator.cluster import Object

FILE = "00-cluster.yaml"
"""kubectl applies a folder's files in the order of their names: namespaces come before what is in them."""

STORAGE = "2Gi"


def write_cluster(folder: Path, sites: Sequence[str], *, profile: str, seed: int, image: str) -> Path:
    """Write FILE into the folder of the study's manifests.

    Args:
        sites: the hospitals; each has a namespace, a claim and a Job of its name.
        profile: of the phantom cohort.
        seed: of the cohort; `fedstudy phantom` takes 0 where none is given.
        image: the trainer's, which draws the patients.
    """
    objects = [namespace(scaffold.HUB)]
    for site in sites:
        words = ["--profile", profile, "--seed", str(seed), "--site", site]
        objects += [namespace(site), claim(site), drawing(site, words, image)]
    comment = (
        "For a cluster: namespaces, and each hospital's claim with a Job that draws its phantom patients into it.\n"
        "# A claim is ReadWriteOncePod: nobody looks at the patients before they are all there.\n"
        "# `fedstudy run` passes over this file: nothing in it is of fedstudy.io. `make examples` writes it."
    )
    return scaffold.write(folder / FILE, objects, comment)


def namespace(name: str) -> Object:
    """A namespace that admits restricted pods alone."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def claim(site: str) -> Object:
    """A hospital's volume, of the cluster's default storage class."""
    spec = {"accessModes": ["ReadWriteOncePod"], "resources": {"requests": {"storage": STORAGE}}}
    return _object("v1", "PersistentVolumeClaim", site, site, spec)


def drawing(site: str, words: Sequence[str], image: str) -> Object:
    """The Job that draws a hospital's patients into its volume; it may be done again."""
    container: dict[str, Any] = {
        "name": "phantom",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["fedstudy-trainer", "phantom", "/data", *words],
        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod.security(),
        "containers": [container],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": site}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    return _object("batch/v1", "Job", site, "draw-patients", {"backoffLimit": 4, "template": {"spec": spec}})


def _object(api_version: str, kind: str, namespace: str, name: str, spec: Object) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}
