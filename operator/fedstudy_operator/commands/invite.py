"""`kubectl fedstudy invite STUDY SITE`: the manifests that a hospital lays into its Git: the invitation, and its part to be filled in."""

from __future__ import annotations

import yaml

from fedstudy.errors import ManifestError
from fedstudy_operator.api import FederatedStudy
from fedstudy_operator.api.meta import API_VERSION
from fedstudy_operator.children.common import decode
from fedstudy_operator.children.study import AGGREGATOR, USED_BY, invitation_name
from fedstudy_operator.cluster import Object
from fedstudy_operator.commands.access import Access
from fedstudy_operator.reconcile.certificates import not_after

_FILES = ("tls.crt", "tls.key", "ca.crt")


async def invite(access: Access, study_name: str, site: str, namespace: str) -> str:
    """The manifests as YAML.

    Args:
        namespace: of the hospital's cluster.

    Raises:
        ManifestError: the study does not list the site, or its invitation is not there yet.
    """
    study = FederatedStudy.model_validate(await access.get("FederatedStudy", study_name))
    if site not in (listed := [entry.name for entry in study.spec.sites]):
        raise ManifestError(
            f"The study {study_name} does not list the site {site}; it lists {', '.join(listed) or 'none'}.",
            "Add it to spec.sites first.",
        )
    secret = await access.find("Secret", invitation_name(study_name, site))
    if secret is None:
        raise ManifestError(
            f"The invitation of {site} is not there yet.", "Wait for the operator: `kubectl get fstudy`."
        )
    used = ((secret["metadata"].get("annotations") or {}).get(USED_BY)) or ""
    return manifests(study, site, namespace, decode(secret), used=bool(used))


def manifests(study: FederatedStudy, site: str, namespace: str, files: dict[str, str], *, used: bool) -> str:
    """A Secret and a SiteParticipant, with what has to be done about them."""
    name = study.metadata.name
    secret: Object = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"{name}-invitation", "namespace": namespace},
        "type": "kubernetes.io/tls",
        "stringData": {file: files[file] for file in _FILES},
    }
    hub = {
        "endpoint": files.get("endpoint") or study.status.endpoint,
        "serverName": AGGREGATOR,
        "invitation": {"secretName": f"{name}-invitation"},
    }
    participant: Object = {
        "apiVersion": API_VERSION,
        "kind": "SiteParticipant",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"study": {"name": name, "hub": hub}, "siteName": site, "datasetRef": "CHANGE-ME"},
    }
    note = [
        f"# Invitation of {site} to the study {name}: {study.spec.title or study.spec.purpose}.",
        "# SECRET: whoever has it can enrol as this hospital, once. Send it over a channel that only they read,",
        "# and encrypt it before it goes into Git (SOPS, Sealed Secrets, External Secrets).",
        f"# It ends on {not_after(files['tls.crt']):%Y-%m-%d %H:%M} UTC. The hospital's own key is made in the hospital and never leaves it.",
    ]
    if used:
        note.append("# USED: a site has enrolled with it already; it is of no use to anybody else.")
    todo = [
        "# Name the hospital's SiteDataset in datasetRef. Nothing is trained before its steward has approved the plan:",
        f"#   kubectl fedstudy plan {name} --namespace {namespace}",
        f"#   kubectl fedstudy approve {name} --namespace {namespace} --digest sha256:…",
    ]
    parts = ["\n".join(note) + "\n" + _yaml(secret), "\n".join(todo) + "\n" + _yaml(participant)]
    return "---\n".join(parts)


class _Dumper(yaml.SafeDumper):
    """PEM as blocks, so that a person sees what it is."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _yaml(obj: Object) -> str:
    return yaml.dump(obj, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
