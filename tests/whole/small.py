"""A study so small that a test can have one of its own: a linear model on the ages of forty patients at each hospital, trained by real pods.

Each hospital is a namespace `<study>-<site>` with a claim `patients`; a pod writes the table into it.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.kube.conftest import study
from tests.whole.api import Object
from tests.whole.charts import Installed

PATIENCE = 300.0
"""Seconds after which a thing that should have come will not: two cores do all this."""
ENDLESS = 1_000_000
"""Steps of a round that no test lives to see the end of."""
GENTLE = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"cpu": "400m", "memory": "1Gi"}}
"""A trainer that leaves the cores to others."""
IMAGE, TRAINER_IMAGE = "localhost/fedstudy:test", "localhost/fedstudy-trainer:test"
_VERSION = "fedstudy.io/v1alpha1"
_GROUP = "/apis/fedstudy.io/v1alpha1"
T = TypeVar("T")


def until(
    what: str, look: Callable[[], T], wanted: Callable[[T], Any] = bool, seconds: float = PATIENCE
) -> T:
    """Look until it is as wanted; what was seen."""
    end = time.monotonic() + seconds
    while not wanted(seen := look()):
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s; last seen: {seen}"
        time.sleep(0.3)
    return seen


def condition(obj: Object | None, kind: str) -> Object:
    """A condition of an object; one without status or reason where it is not there."""
    for entry in ((obj or {}).get("status") or {}).get("conditions") or []:
        if entry["type"] == kind:
            found: Object = entry
            return found
    return {"status": "", "reason": "", "message": ""}


def table(seed: int, *, without: Sequence[str] = ()) -> str:
    """Forty patients as TSV, in whom IDH depends on age; some columns may be lacking."""
    chance = random.Random(seed)
    names = [name for name in ("participant_id", "split", "age", "idh") if name not in without]
    lines = ["\t".join(names)]
    for number in range(40):
        age = chance.gauss(50, 12)
        row = {
            "participant_id": f"p{seed}-{number:02d}",
            "split": ("train", "train", "train", "val", "test")[number % 5],
            "age": f"{age:.1f}",
            "idh": "mutant" if chance.random() < 1 / (1 + 2.7 ** ((age - 50) / 5)) else "wildtype",
        }
        lines.append("\t".join(row[name] for name in names))
    return "\n".join(lines) + "\n"


def pod(name: str, namespace: str, code: str, **spec: Any) -> Object:
    """A pod of our image that a restricted namespace takes and that runs some Python; `env`, `claim` (at /data), and parts of a pod's spec."""
    claim, env = spec.pop("claim", ""), spec.pop("env", {})
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["python3", "-c", code],
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}] if claim else [],
    }
    user = {"runAsNonRoot": True, "runAsUser": 65532, "fsGroup": 65532}
    whole = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "securityContext": {**user, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}] if claim else [],
        **spec,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": whole,
    }


def claim(name: str, namespace: str, size: str = "16Mi") -> Object:
    """A claim on the default class."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


@dataclass(frozen=True)
class Small:
    """A study and its hospitals.

    Attributes:
        hub: the study's namespace.
    """

    installed: Installed
    name: str
    sites: tuple[str, ...]
    hub: str = "hub"

    def namespace(self, site: str) -> str:
        """A hospital's."""
        return f"{self.name}-{site}"

    # What people write

    def study(self, *, rounds: int = 2, steps: int = 100, **spec: Any) -> Object:
        """The study: every site must answer in every round."""
        federation = {
            "rounds": rounds,
            "minSites": len(self.sites),
            "roundTimeoutSeconds": 3600,
            "evaluateEvery": 1000,
        }
        training = {"localSteps": steps, "batchSize": 1, "optimizer": {"learningRate": 0.001}}
        words = {"training": training, "federation": federation, **spec}
        document = study(self.name, self.sites, **words)["spec"]
        return self._object("FederatedStudy", self.hub, self.name, document)

    def dataset(self, site: str, *, claim: str = "patients") -> Object:
        """A dataset that lets any such study in."""
        policy = {
            "purposes": ["DUO:0000007"], "algorithms": ["*"], "networks": ["*"], "images": ["*"], "minSites": 1,
            "requireSecureAggregation": False, "minCellCount": 1, "maxConcurrentStudies": 4,
        }  # fmt: skip
        spec = {
            "volume": {"persistentVolumeClaim": claim},
            "format": "Table",
            "table": "participants.tsv",
            "policy": policy,
        }
        return self._object("SiteDataset", self.namespace(site), "patients", spec)

    def participant(self, site: str, **trainer: Any) -> Object:
        """A hospital's part; by default with a trainer that stays."""
        spec = {
            "study": {"name": self.name, "namespace": self.hub},
            "siteName": site,
            "datasetRef": "patients",
            "approval": {"mode": "Automatic"},
            "trainer": {"release": "Never", "resources": GENTLE, **trainer},
        }
        return self._object("SiteParticipant", self.namespace(site), self.name, spec)

    def apply(self, *objects: Object) -> None:
        """As a person does: kubectl apply."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.installed.kubectl("apply", "-f", "-", stdin=text)

    def patch(self, kind: str, namespace: str, patch: Mapping[str, Any], name: str = "", *words: str) -> None:
        """kubectl patch, of a study or a participant by default."""
        self.installed.kubectl(
            "patch", kind, name or self.name, "-n", namespace, "--type=merge", "-p", json.dumps(patch), *words
        )

    def hospitals(self, tables: Mapping[str, str] | None = None) -> None:
        """A namespace for each, with a claim and the table in it."""
        written = tables or {site: table(number) for number, site in enumerate(self.sites)}
        for site in self.sites:
            self.installed.namespace(self.namespace(site))
        self.apply(*(claim("patients", self.namespace(site)) for site in self.sites))
        self.write(written)

    def write(self, tables: Mapping[str, str], claim: str = "patients") -> None:
        """Write each hospital's table into its claim, by a pod that is gone afterwards."""
        code = "import os, pathlib; pathlib.Path('/data/participants.tsv').write_text(os.environ['TABLE'])"
        self.apply(
            *(
                pod("writes-patients", self.namespace(site), code, claim=claim, env={"TABLE": text})
                for site, text in tables.items()
            )
        )
        for site in tables:
            path = f"/api/v1/namespaces/{self.namespace(site)}/pods/writes-patients"
            until(f"the patients of {site}", lambda path=path: self._phase(path), "Succeeded".__eq__)  # type: ignore[misc]
            self.installed.kubectl("delete", "pod", "writes-patients", "-n", self.namespace(site))

    def remove(self) -> None:
        """Delete the study and its hospitals, without waiting for their end."""
        words = ("--ignore-not-found", "--wait=false")
        self.installed.kubectl("delete", "fstudy", self.name, "-n", self.hub, *words)
        self.installed.kubectl("delete", "namespace", *map(self.namespace, self.sites), *words)

    # What there is

    def seen_study(self) -> Object | None:
        """The study as the API server has it."""
        return self.installed.eyes.get(f"{_GROUP}/namespaces/{self.hub}/federatedstudies/{self.name}")

    def seen(self, site: str) -> Object | None:
        """A participant as the API server has it."""
        return self.installed.eyes.get(
            f"{_GROUP}/namespaces/{self.namespace(site)}/siteparticipants/{self.name}"
        )

    def seen_dataset(self, site: str) -> Object | None:
        """A dataset as the API server has it."""
        return self.installed.eyes.get(f"{_GROUP}/namespaces/{self.namespace(site)}/sitedatasets/patients")

    def pods(self, site: str, component: str) -> list[Object]:
        """A hospital's pods of one component that are neither over nor on their way out."""
        path = f"/api/v1/namespaces/{self.namespace(site)}/pods"
        return _alive(self.installed.eyes.list(path, component=component, participant=self.name))

    def aggregators(self) -> list[Object]:
        """The aggregator's pod."""
        path = f"/api/v1/namespaces/{self.hub}/pods"
        return _alive(self.installed.eyes.list(path, component="aggregator", study=self.name))

    def jobs(self, site: str, component: str = "trainer") -> list[Object]:
        """A hospital's Jobs of one component."""
        path = f"/apis/batch/v1/namespaces/{self.namespace(site)}/jobs"
        return self.installed.eyes.list(path, component=component, participant=self.name)

    def until_says(self, site: str, kind: str, reason: str, seconds: float = PATIENCE) -> Object:
        """Wait until a condition of a participant has a reason; returns the condition."""
        return until(
            f"{kind} of {site} for {reason}",
            lambda: condition(self.seen(site), kind),
            lambda entry: entry["reason"] == reason,
            seconds,
        )

    def until_trains(self, site: str, round: int = 1) -> str:
        """Wait until a hospital's trainer is at work in a round; returns the instruction's id."""
        found = until(
            f"round {round} at {site}",
            lambda: condition(self.seen(site), "Training"),
            lambda entry: entry["status"] == "True" and entry["message"].startswith(f"{round:04d}-000-train"),
        )
        until(f"a running trainer at {site}", lambda: self.running(site, "trainer"))
        return str(found["message"])

    def running(self, site: str, component: str) -> list[Object]:
        """Pods of a component that run."""
        return [one for one in self.pods(site, component) if one["status"].get("phase") == "Running"]

    def until_complete(self, seconds: float = PATIENCE) -> None:
        """Wait for the end of the study."""
        until(
            f"the end of {self.name}",
            self.seen_study,
            lambda study: condition(study, "Complete")["status"] == "True",
            seconds,
        )

    def logs(self, pod: Object) -> str:
        """What a pod has logged."""
        return self.installed.kubectl(
            "logs", "-n", pod["metadata"]["namespace"], pod["metadata"]["name"], check=False
        )

    def python(self, pod: Object, code: str, *words: str) -> str:
        """Run Python within a running pod; what it printed."""
        metadata = pod["metadata"]
        return self.installed.kubectl(
            "exec", "-n", metadata["namespace"], metadata["name"], "--", "python3", "-c", code, *words
        )

    def _phase(self, path: str) -> str:
        return str(((self.installed.eyes.get(path) or {}).get("status") or {}).get("phase"))

    def _object(self, kind: str, namespace: str, name: str, spec: Mapping[str, Any]) -> Object:
        metadata = {"name": name, "namespace": namespace}
        return {"apiVersion": _VERSION, "kind": kind, "metadata": metadata, "spec": dict(spec)}


def _alive(pods: Iterable[Object]) -> list[Object]:
    return [
        one
        for one in pods
        if one["status"].get("phase") not in ("Succeeded", "Failed")
        and "deletionTimestamp" not in one["metadata"]
    ]


__all__ = ["ENDLESS", "GENTLE", "IMAGE", "PATIENCE", "Small", "claim", "condition", "pod", "table", "until"]
