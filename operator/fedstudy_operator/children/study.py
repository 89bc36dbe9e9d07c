"""Children of a FederatedStudy: the aggregator with all that it needs, and an invitation for each site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fedstudy.plan import StudyPlan, canonical_json, digest_of
from fedstudy_operator.api.meta import GROUP
from fedstudy_operator.api.study import FederatedStudy
from fedstudy_operator.children import pod
from fedstudy_operator.children.common import SITE, Owner, Settings, child, child_name, config_map, encode
from fedstudy_operator.cluster import Object


class PlanText(Protocol):
    """A plan as it is written: a StudyPlan, or one that remembers."""

    def canonical(self) -> bytes:
        """Its canonical JSON."""
        ...

    def digest(self) -> str:
        """What hospitals approve."""
        ...


@dataclass(frozen=True)
class Document:
    """A plan that was written once, for all who ask for it in a pass."""

    text: bytes

    @classmethod
    def of(cls, plan: StudyPlan) -> Document:
        """Write a plan."""
        return cls(plan.canonical())

    def canonical(self) -> bytes:
        """Its canonical JSON."""
        return self.text

    def digest(self) -> str:
        """What hospitals approve."""
        return digest_of(self.text)


AGGREGATOR = "aggregator"
INVITATION = "invitation"
INVITATION_ID = f"{GROUP}/invitation"
USED_BY = f"{GROUP}/used-by"
SERVICE_PORT = 443


def owner_of(study: FederatedStudy) -> Owner:
    """The study as its children's owner."""
    return Owner("FederatedStudy", study.metadata)


def service_address(study: str, namespace: str) -> str:
    """The aggregator's Service as dialled within the cluster: `host:port`."""
    return f"{child_name(study, AGGREGATOR)}.{namespace}.svc:{SERVICE_PORT}"


def endpoint(study: FederatedStudy) -> str:
    """What hospitals dial."""
    exposure = study.spec.aggregator.exposure
    if exposure.host:
        return f"{exposure.host}:{exposure.port}"
    return service_address(study.metadata.name, study.metadata.namespace)


def invitation_name(study: str, site: str) -> str:
    """The Secret with a site's invitation, in the study's namespace."""
    return child_name(study, INVITATION, site)


def invitation(
    study: FederatedStudy, site: str, *, invitation_id: str, files: dict[str, str], used_by: str = ""
) -> Object:
    """What a site is sent: a one-time bootstrap certificate with its key, the study's authority, and where to dial.

    Args:
        files: tls.crt, tls.key, ca.crt, endpoint.
        used_by: fingerprint of the key that enrolled with it; once set, it is of no more use to anybody else.
    """
    owner = owner_of(study)
    secret = child(
        "v1",
        "Secret",
        owner,
        invitation_name(owner.name, site),
        INVITATION,
        type="kubernetes.io/tls",
        data=encode(files),
    )
    secret["metadata"]["labels"] |= {SITE: site, INVITATION_ID: invitation_id}
    if used_by:
        secret["metadata"]["annotations"] = {USED_BY: used_by}
    return secret


def configuration(study: FederatedStudy, plan: PlanText, settings: Settings) -> Object:
    """The ConfigMap that the aggregator reads: the plan, and who is invited."""
    owner = owner_of(study)
    who = {
        "uid": study.metadata.uid,
        "trustDomain": settings.trust_domain,
        "sites": sorted(site.name for site in study.spec.sites),
        "required": sorted(site.name for site in study.spec.sites if site.required),
    }
    files = {"plan.json": plan.canonical().decode(), "study.json": canonical_json(who).decode()}
    return config_map(owner, owner.child("plan"), AGGREGATOR, files)


def service(study: FederatedStudy) -> Object:
    """The address that hospitals dial."""
    owner = owner_of(study)
    spec = {
        "type": study.spec.aggregator.exposure.type.value,
        "selector": owner.selector(AGGREGATOR),
        "ports": [
            {"name": pod.PORT_NAME, "port": SERVICE_PORT, "targetPort": pod.PORT_NAME, "protocol": "TCP"}
        ],
    }
    return child("v1", "Service", owner, owner.child(AGGREGATOR), AGGREGATOR, spec=spec)


def aggregator(study: FederatedStudy, plan: PlanText, settings: Settings) -> Object:
    """The StatefulSet of the aggregator; another plan starts it anew."""
    owner, wanted = owner_of(study), study.spec.aggregator
    name = owner.child(AGGREGATOR)
    made = pod.container(
        AGGREGATOR,
        settings.place(wanted.image or settings.image),
        ["fedstudy-aggregator"],
        {
            "FEDSTUDY_LISTEN": f"0.0.0.0:{pod.PORT}",
            "FEDSTUDY_TLS": "/etc/fedstudy/tls",
            "FEDSTUDY_CONFIG": "/etc/fedstudy/config",
            "FEDSTUDY_STATE": "/var/lib/fedstudy",
        },
        {
            "/etc/fedstudy/tls": "tls",
            "/etc/fedstudy/config": "config",
            "/var/lib/fedstudy": "state",
            "/tmp": "tmp",
        },
        pod.asked(wanted.resources, cpu="50m", memory="128Mi"),
        read_only=("/etc/fedstudy/tls", "/etc/fedstudy/config"),
    )
    template = {
        "metadata": {
            "labels": child("v1", "Pod", owner, name, AGGREGATOR)["metadata"]["labels"],
            "annotations": {f"{GROUP}/plan": plan.digest()},
        },
        "spec": {
            **pod.pull_secrets(settings.pull_secrets),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 30,
            "securityContext": pod.security(),
            "containers": [pod.serving(made, settings.metrics_port)],
            "volumes": [
                pod.secret_volume("tls", owner.child(AGGREGATOR, "tls")),
                pod.config_volume("config", owner.child("plan")),
                pod.scratch_volume("tmp"),
            ],
        },
    }
    spec = {
        "replicas": 1,
        "serviceName": name,
        "selector": {"matchLabels": owner.selector(AGGREGATOR)},
        "template": template,
        "volumeClaimTemplates": [pod.state_claim(wanted.storage, wanted.storage_class_name)],
    }
    return child("apps/v1", "StatefulSet", owner, name, AGGREGATOR, spec=spec)


def network_policy(study: FederatedStudy, settings: Settings) -> Object:
    """The aggregator is called by hospitals, its operator and Prometheus, and calls nobody."""
    owner = owner_of(study)
    spec = {
        "podSelector": {"matchLabels": owner.selector(AGGREGATOR)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": pod.ports(pod.PORT)}, *pod.metrics_ingress(settings.metrics_port)],
        "egress": [],
    }
    return child(
        "networking.k8s.io/v1", "NetworkPolicy", owner, owner.child(AGGREGATOR), AGGREGATOR, spec=spec
    )


def disruption_budget(study: FederatedStudy) -> Object:
    """A drained node waits for a person while a study runs."""
    owner = owner_of(study)
    spec = {"maxUnavailable": 0, "selector": {"matchLabels": owner.selector(AGGREGATOR)}}
    return child("policy/v1", "PodDisruptionBudget", owner, owner.child(AGGREGATOR), AGGREGATOR, spec=spec)
