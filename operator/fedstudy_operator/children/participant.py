"""Children of a SiteParticipant: the agent with all that it needs, and what its trainers read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedstudy.plan import canonical_json
from fedstudy_operator.api.dataset import SiteDataset
from fedstudy_operator.api.meta import Resources
from fedstudy_operator.api.participant import SiteParticipant
from fedstudy_operator.children import pod
from fedstudy_operator.children.common import (
    COMPONENT,
    STUDY,
    Owner,
    Settings,
    child,
    config_map,
    encode,
    label_value,
    labels,
)
from fedstudy_operator.cluster import Object

AGENT = "agent"
TRAINER = "trainer"
PREFLIGHT = "preflight"
STORAGE = "20Gi"
"""Of an agent's volume: models and updates in transit, and the ledger."""


def owner_of(participant: SiteParticipant) -> Owner:
    """The participant as its children's owner."""
    return Owner("SiteParticipant", participant.metadata)


def agent_address(participant: SiteParticipant) -> str:
    """The agent's Service: `host:port`."""
    owner = owner_of(participant)
    return f"{owner.child(AGENT)}.{owner.namespace}.svc:{pod.PORT}"


def invitation_secret(participant: SiteParticipant) -> str:
    """The Secret from which the agent takes its invitation, in the participant's namespace."""
    hub = participant.spec.study.hub
    return hub.invitation.secret_name if hub else owner_of(participant).child("invitation")


def invitation_copy(participant: SiteParticipant, files: Mapping[str, str]) -> Object:
    """The invitation of a study of this cluster, brought over from the study's namespace."""
    owner = owner_of(participant)
    name = invitation_secret(participant)
    return child("v1", "Secret", owner, name, AGENT, type="kubernetes.io/tls", data=encode(files))


def offered_plan(participant: SiteParticipant, plan: str) -> Object:
    """The plan that the hub offers, for the steward to read."""
    owner = owner_of(participant)
    return config_map(owner, owner.child("plan"), AGENT, {"plan.json": plan})


def dataset_configuration(participant: SiteParticipant, dataset: SiteDataset) -> Object:
    """How the trainer reads the data."""
    spec = dataset.spec.model_dump(mode="json", by_alias=True, exclude={"policy", "volume"})
    document = {**spec, "minCellCount": dataset.spec.policy.min_cell_count}
    owner = owner_of(participant)
    return config_map(
        owner, owner.child("dataset"), TRAINER, {"dataset.json": canonical_json(document).decode()}
    )


def service(participant: SiteParticipant) -> Object:
    """The agent's address within the hospital."""
    owner = owner_of(participant)
    spec = {
        "type": "ClusterIP",
        "selector": owner.selector(AGENT),
        "ports": [{"name": pod.PORT_NAME, "port": pod.PORT, "targetPort": pod.PORT_NAME, "protocol": "TCP"}],
    }
    return child("v1", "Service", owner, owner.child(AGENT), AGENT, spec=spec)


def agent(participant: SiteParticipant, upstream: str, server_name: str, settings: Settings) -> Object:
    """The StatefulSet of the agent.

    Args:
        upstream: `host:port` of the aggregator.
        server_name: the name in its certificate.
    """
    owner = owner_of(participant)
    name = owner.child(AGENT)
    made = pod.container(
        AGENT,
        settings.place(settings.image),
        ["fedstudy-agent"],
        {
            "FEDSTUDY_LISTEN": f"0.0.0.0:{pod.PORT}",
            "FEDSTUDY_TLS": "/etc/fedstudy/tls",
            "FEDSTUDY_UPSTREAM": upstream,
            "FEDSTUDY_UPSTREAM_NAME": server_name,
            "FEDSTUDY_INVITATION": "/etc/fedstudy/invitation",
            "FEDSTUDY_SITE": participant.spec.site_name,
            "FEDSTUDY_STATE": "/var/lib/fedstudy",
        },
        {
            "/etc/fedstudy/tls": "tls",
            "/etc/fedstudy/invitation": "invitation",
            "/var/lib/fedstudy": "state",
            "/tmp": "tmp",
        },
        pod.asked(Resources(), cpu="20m", memory="96Mi"),
        read_only=("/etc/fedstudy/tls", "/etc/fedstudy/invitation"),
    )
    template = {
        "metadata": {"labels": labels(owner, AGENT)},
        "spec": {
            **pod.pull_secrets(settings.pull_secrets),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 30,
            "securityContext": pod.security(),
            "containers": [pod.serving(made, settings.metrics_port)],
            "volumes": [
                pod.secret_volume("tls", owner.child(AGENT, "tls")),
                pod.secret_volume("invitation", invitation_secret(participant)),
                pod.scratch_volume("tmp"),
            ],
        },
    }
    spec = {
        "replicas": 1,
        "serviceName": name,
        "selector": {"matchLabels": owner.selector(AGENT)},
        "template": template,
        "volumeClaimTemplates": [pod.state_claim(STORAGE, None)],
    }
    return child("apps/v1", "StatefulSet", owner, name, AGENT, spec=spec)


def agent_network_policy(participant: SiteParticipant, upstream: str, settings: Settings) -> Object:
    """The agent is called by its own trainers, its operator and Prometheus, and calls the hub."""
    owner = owner_of(participant)
    callers: list[dict[str, Any]] = [
        {"podSelector": {"matchLabels": owner.selector(component)}} for component in (TRAINER, PREFLIGHT)
    ]
    # the Service's port is replaced by the pod's before the rule is asked
    hub: dict[str, Any] = {"ports": pod.ports(int(upstream.rpartition(":")[2]), pod.PORT)}
    if participant.spec.study.namespace is not None:
        hub["to"] = [_aggregator_of(participant.spec.study.name, participant.spec.study.namespace)]
    spec = {
        "podSelector": {"matchLabels": owner.selector(AGENT)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [*callers, pod.FROM_OPERATOR], "ports": pod.ports(pod.PORT)},
            *pod.metrics_ingress(settings.metrics_port),
        ],
        "egress": [pod.DNS, hub],
    }
    return child("networking.k8s.io/v1", "NetworkPolicy", owner, owner.child(AGENT), AGENT, spec=spec)


def _aggregator_of(study: str, namespace: str) -> dict[str, Any]:
    """A peer: the aggregator of a study of this cluster."""
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": {STUDY: label_value(study), COMPONENT: "aggregator"}},
    }


def trainer_network_policy(participant: SiteParticipant, component: str) -> Object:
    """A pod that has data talks to its agent, and to nobody else."""
    owner = owner_of(participant)
    to_agent = {
        "to": [{"podSelector": {"matchLabels": owner.selector(AGENT)}}],
        "ports": pod.ports(pod.PORT),
    }
    spec = {
        "podSelector": {"matchLabels": owner.selector(component)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [],
        "egress": [pod.DNS, to_agent],
    }
    return child("networking.k8s.io/v1", "NetworkPolicy", owner, owner.child(component), component, spec=spec)
