"""The rules that enforce NetworkPolicies, in the cases that no pod of another test shows."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cluster.addons import Pod, selects, table

WEB = Pod("a", {"app": "web"}, "10.0.0.1", {"http": 8080})
FRIEND = Pod("b", {"app": "friend", "tier": "two"}, "10.0.0.2", {"http": 9090})
NAMESPACES = {"a": {"name": "a"}, "b": {"name": "b", "team": "hub"}}


def policy(**spec: Any) -> dict[str, Any]:
    """A policy in namespace a, for the pods app=web unless told otherwise."""
    whole = {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"], **spec}
    return {"metadata": {"namespace": "a", "name": "p"}, "spec": whole}


def rules(*policies: dict[str, Any], chain: str = "in_10_0_0_1") -> list[str]:
    """The lines of one pod's chain."""
    text = table([WEB, FRIEND], NAMESPACES, policies)
    assert f"chain {chain} {{" in text, text

    return [line.strip() for line in text.split(f"chain {chain} {{\n")[1].split("\n}")[0].splitlines()]


def test_a_pod_that_no_policy_selects_is_left_alone() -> None:
    text = table([WEB, FRIEND], NAMESPACES, [policy(podSelector={"matchLabels": {"app": "other"}})])
    assert "drop" not in text
    assert "vmap" not in text


def test_a_policy_without_rules_drops_all() -> None:
    assert rules(policy()) == ["counter drop"]


def test_a_named_port_is_that_of_the_pod_which_is_spoken_to() -> None:
    ingress = [
        {"from": [{"namespaceSelector": {"matchLabels": {"team": "hub"}}}], "ports": [{"port": "http"}]}
    ]
    assert rules(policy(ingress=ingress)) == [
        "ip saddr { 10.0.0.2 } tcp dport { 8080 } return",
        "counter drop",
    ]
    egress = [
        {
            "to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"tier": "two"}}}],
            "ports": [{"port": "http"}],
        }
    ]
    assert rules(policy(policyTypes=["Egress"], egress=egress), chain="eg_10_0_0_1") == [
        "ip daddr { 10.0.0.2 } tcp dport { 9090 } return",
        "counter drop",
    ]


def test_a_block_has_holes_and_a_port_has_a_range() -> None:
    block = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.0.0/16"]}}
    ports = [{"port": 1000, "endPort": 2000, "protocol": "UDP"}, {"protocol": "SCTP"}]
    seen = rules(
        policy(policyTypes=["Egress"], egress=[{"to": [block], "ports": ports}]), chain="eg_10_0_0_1"
    )
    where = "ip daddr 10.0.0.0/8 ip daddr != { 10.1.0.0/16, 10.2.0.0/16 }"
    assert [" ".join(line.split()) for line in seen] == [
        f"{where} udp dport 1000-2000 return",
        f"{where} meta l4proto sctp return",
        "counter drop",
    ]


def test_a_peer_that_nobody_is_lets_nobody_in() -> None:
    assert rules(policy(ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "nobody"}}}]}])) == [
        "counter drop"
    ]


def test_an_empty_rule_lets_everybody_in() -> None:
    assert rules(policy(ingress=[{}])) == ["return", "counter drop"]


def test_two_policies_add_up() -> None:
    friends = policy(ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"team": "hub"}}}]}])
    assert rules(policy(), friends) == ["ip saddr { 10.0.0.2 } return", "counter drop"]


@pytest.mark.parametrize(
    ("operator", "values", "matches"),
    [
        ("In", ["web", "x"], True),
        ("In", ["x"], False),
        ("NotIn", ["x"], True),
        ("NotIn", ["web"], False),
        ("Exists", [], True),
        ("DoesNotExist", [], False),
    ],
)
def test_expressions_select_as_kubernetes_says(operator: str, values: list[str], matches: bool) -> None:
    expression = {"key": "app", "operator": operator, "values": values}
    assert selects({"matchExpressions": [expression]}, {"app": "web"}) is matches
