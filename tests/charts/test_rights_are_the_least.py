"""RBAC of the charts (checklist 15, the static part): only named verbs; in namespaced mode nothing cluster-wide; what the operator makes it may make."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.charts.conftest import CHARTS, HOSPITAL, Object, Render, named

RESOURCES = {
    "Secret": ("", "secrets"),
    "ConfigMap": ("", "configmaps"),
    "Service": ("", "services"),
    "StatefulSet": ("apps", "statefulsets"),
    "Job": ("batch", "jobs"),
    "NetworkPolicy": ("networking.k8s.io", "networkpolicies"),
    "PodDisruptionBudget": ("policy", "poddisruptionbudgets"),
}


def rules_of(objects: Iterable[Object], name: str) -> list[dict[str, Any]]:
    """The rules of a role by its name."""
    (role,) = [o for o in objects if o["kind"] in ("Role", "ClusterRole") and o["metadata"]["name"] == name]
    rules: list[dict[str, Any]] = role["rules"]
    return rules


def verbs(rules: Iterable[dict[str, Any]], group: str, resource: str) -> set[str]:
    """What some rules allow on a resource."""
    return {
        verb
        for rule in rules
        if group in rule["apiGroups"] and resource in rule["resources"]
        for verb in rule["verbs"]
    }


def made(repository: Path, *modules: str) -> set[str]:
    """The kinds that some builders of children make, by their source; `common` makes Secrets and ConfigMaps for all."""
    folder = repository / "operator" / "fedstudy_operator" / "children"
    text = "".join((folder / f"{module}.py").read_text() for module in (*modules, "common"))
    return set(re.findall(r'child\(\s*"[\w./]+",\s*"(\w+)"', text)) - {"Pod"}


@pytest.mark.parametrize("chart", CHARTS)
def test_no_rule_has_a_wildcard(render: Render, chart: str) -> None:
    for obj in render(chart):
        for rule in obj.get("rules", []):
            assert "*" not in str(rule), obj["metadata"]["name"]
            assert "escalate" not in rule["verbs"] and "bind" not in rule["verbs"]


@pytest.mark.parametrize("chart", CHARTS)
def test_in_namespaced_mode_nothing_is_cluster_wide(render: Render, chart: str) -> None:
    objects = render(chart, {"watchNamespaces": ["neuro", "onco"]})
    assert not named(objects, "ClusterRole") and not named(objects, "ClusterRoleBinding")
    name = f"fs-{chart}"
    by_namespace = {
        role["metadata"]["namespace"]: role["rules"]
        for role in named(objects, "Role")
        if role["metadata"]["name"] == name
    }
    assert set(by_namespace) == {"neuro", "onco"}
    everywhere = rules_of(render(chart), f"fedstudy:{name}")
    for rule, wide in zip(by_namespace["neuro"], everywhere, strict=True):
        more = {"list", "watch"} if "secrets" in rule["resources"] else set()
        assert set(rule["verbs"]) == set(wide["verbs"]) | more, (
            "the same rules, elsewhere; and Secrets are watched"
        )
    for binding in named(objects, "RoleBinding"):
        assert binding["roleRef"]["kind"] == "Role"
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": "fedstudy"}]


@pytest.mark.parametrize("chart", CHARTS)
def test_only_the_crds_and_the_approval_policy_need_an_administrator_then(render: Render, chart: str) -> None:
    objects = render(chart, {"watchNamespaces": ["neuro"]})
    wide = {obj["kind"] for obj in objects if "namespace" not in obj["metadata"]}
    policies = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    assert wide == {"CustomResourceDefinition"} | (policies if chart == "fedstudy-site" else set())
    off = {"watchNamespaces": ["neuro"], "crds": {"enabled": False}}
    if chart == "fedstudy-site":
        off["approvalPolicy"] = {"enabled": False}
    assert all("namespace" in obj["metadata"] for obj in render(chart, off))


@pytest.mark.parametrize("chart", CHARTS)
def test_no_operator_may_list_or_watch_the_secrets_of_a_cluster(render: Render, chart: str) -> None:
    found = verbs(rules_of(render(chart), f"fedstudy:fs-{chart}"), "", "secrets")
    assert {"get", "create", "patch"} <= found
    assert not found & {"list", "watch", "update", "deletecollection"}


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize("namespaces", [(), ("neuro",)])
def test_an_operator_may_watch_what_it_watches(
    render: Render, chart: str, namespaces: tuple[str, ...]
) -> None:
    from fedstudy_operator.kube.environment import ROLES
    from fedstudy_operator.kube.kinds import KINDS
    from fedstudy_operator.kube.watches import watched_children

    objects = render(chart, {"watchNamespaces": list(namespaces)})
    rules = rules_of(objects, f"fs-{chart}" if namespaces else f"fedstudy:fs-{chart}")
    role = chart.partition("-")[2]
    for kind in (*ROLES[role], *watched_children(ROLES[role], namespaces)):
        served = KINDS[kind]
        found = verbs(rules, served.group, served.plural)
        assert {"list", "watch"} <= found, kind


def test_the_hubs_operator_may_make_what_it_makes(render: Render, repository: Path) -> None:
    rules = rules_of(render("fedstudy-hub"), "fedstudy:fs-fedstudy-hub")
    kinds = made(repository, "study")
    assert len(kinds) == 6
    for kind in kinds:
        assert {"create", "patch"} <= verbs(rules, *RESOURCES[kind]), kind
    creatable = {kind for kind, where in RESOURCES.items() if "create" in verbs(rules, *where)}
    assert creatable == kinds, "and nothing else"
    assert verbs(rules, "fedstudy.io", "federatedstudies") == {"get", "list", "watch"}
    assert verbs(rules, "fedstudy.io", "federatedstudies/status") == {"patch"}


def test_a_hospitals_operator_may_make_what_it_makes(render: Render, repository: Path) -> None:
    rules = rules_of(render("fedstudy-site"), "fedstudy:fs-fedstudy-site")
    kinds = made(repository, "participant", "trainer")
    assert len(kinds) == 6
    for kind in kinds - {"Job"}:
        assert {"create", "patch"} <= verbs(rules, *RESOURCES[kind]), kind
    assert verbs(rules, *RESOURCES["Job"]) == {"list", "watch", "create", "delete"}, (
        "it is never written again"
    )
    creatable = {kind for kind, where in RESOURCES.items() if "create" in verbs(rules, *where)}
    assert creatable == kinds, "and nothing else"
    assert not verbs(rules, "fedstudy.io", "federatedstudies"), (
        "another cluster's studies are not its business"
    )


def test_a_hospital_reads_the_studies_of_named_namespaces_alone(render: Render) -> None:
    objects = render("fedstudy-site", HOSPITAL)
    (role,) = [o for o in named(objects, "Role") if o["metadata"]["name"] == "fs-fedstudy-site-hub"]
    assert role["metadata"]["namespace"] == "hub"
    assert verbs(role["rules"], "", "secrets") == {"get"}
    assert "get" in verbs(role["rules"], "fedstudy.io", "federatedstudies")
    assert not verbs(role["rules"], "fedstudy.io", "federatedstudies") & {
        "create",
        "update",
        "patch",
        "delete",
    }


@pytest.mark.parametrize("chart", CHARTS)
def test_the_lease_is_the_only_one_that_the_operator_may_change(render: Render, chart: str) -> None:
    rules = rules_of(render(chart), f"fs-{chart}-lease")
    changes = [rule for rule in rules if "update" in rule["verbs"] or "patch" in rule["verbs"]]
    assert [rule["resourceNames"] for rule in changes] == [[f"fedstudy-operator-{chart.split('-')[1]}"]]


@pytest.mark.parametrize("chart", CHARTS)
def test_finalizers_are_granted_where_an_admission_plugin_asks_for_them(render: Render, chart: str) -> None:
    values = {"rbac": {"ownerReferencesPermissionEnforcement": True}}
    kind = "federatedstudies" if chart == "fedstudy-hub" else "siteparticipants"
    rules = rules_of(render(chart, values), f"fedstudy:fs-{chart}")
    assert verbs(rules, "fedstudy.io", f"{kind}/finalizers") == {"update"}
    assert not verbs(rules_of(render(chart), f"fedstudy:fs-{chart}"), "fedstudy.io", f"{kind}/finalizers")


def test_editing_a_participant_does_not_include_approving(render: Render) -> None:
    objects = render("fedstudy-site")
    roles = {o["metadata"]["name"].rpartition("-")[2]: o for o in named(objects, "ClusterRole")}
    assert roles["view"]["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert roles["edit"]["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    approver = roles["approver"]
    assert not any("aggregate-to" in label for label in approver["metadata"]["labels"])
    assert "approve" in verbs(approver["rules"], "fedstudy.io", "siteparticipants")
    for role in ("view", "edit"):
        assert "approve" not in verbs(roles[role]["rules"], "fedstudy.io", "siteparticipants")


def test_the_api_server_is_asked_about_every_change_of_an_approval(render: Render) -> None:
    objects = render("fedstudy-site")
    (policy,) = named(objects, "ValidatingAdmissionPolicy")
    (binding,) = named(objects, "ValidatingAdmissionPolicyBinding")
    spec = policy["spec"]
    assert spec["failurePolicy"] == "Fail"
    (rule,) = spec["matchConstraints"]["resourceRules"]
    assert (rule["resources"], rule["operations"]) == (["siteparticipants"], ["CREATE", "UPDATE"])
    assert '.check("approve").allowed()' in spec["validations"][0]["expression"]
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    assert binding["spec"]["validationActions"] == ["Deny"]
    assert "matchResources" not in binding["spec"]
    objects = render("fedstudy-site", {"watchNamespaces": ["neuro"]})
    (binding,) = named(objects, "ValidatingAdmissionPolicyBinding")
    (expression,) = binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
    assert expression["values"] == ["neuro"]
