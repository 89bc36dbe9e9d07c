"""What the API server refuses by itself, no operator running: the corpus of bad manifests, and changes of what cannot change.

The few faults that no schema and no rule can see are let in; the operator then says so in the resource's status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.commands import CommandError, kubectl
from tests.cluster.control_plane import REPOSITORY, ControlPlane
from tests.kube.conftest import Kube, Start, condition, dataset, participant, study
from tests.merge import patched

from fedstudy_operator.cluster import InvalidObjectError, Object
from fedstudy_operator.kube.api import Api, connect
from fedstudy_operator.kube.kinds import KINDS

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CORPUS: dict[str, Any] = yaml.safe_load((REPOSITORY / "tests/corpus/manifests.yaml").read_text())
LET_IN = [case for case in CORPUS["bad"] if case.get("only") == "client"]
REFUSED = [case for case in CORPUS["bad"] if case.get("only") != "client"]
LARGEST = 200_000
"""Bytes of a definition: client-side apply keeps a copy of it in an annotation, which may have 256 KiB."""


def manifest(case: dict[str, Any]) -> Object:
    """The bad manifest of a case."""
    return patched(CORPUS["base"][case["base"]], case["patch"])


def ours(obj: Object) -> bool:
    """Whether the API server has a path for such an object."""
    return obj["kind"] in KINDS and obj["apiVersion"] == "fedstudy.io/v1alpha1"


async def offer(api: Api, obj: Object) -> str:
    """What the API server says against an object, as kubectl would offer it, but for nothing; empty where it takes it."""
    obj = {**obj, "metadata": {**obj["metadata"], "namespace": "default"}}
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    try:
        await api.request("POST", KINDS[obj["kind"]].path("default"), body=obj, query=query)
    except InvalidObjectError as error:
        return str(error)
    return ""


async def offer_all(plane: ControlPlane) -> dict[str, str]:
    """Name of a good or bad manifest → what the API server says against it."""
    api = Api(await connect(str(plane.kubeconfig)))
    every = {**CORPUS["base"], **{case["name"]: manifest(case) for case in CORPUS["bad"]}}
    try:
        return {name: await offer(api, obj) for name, obj in every.items() if ours(obj)}
    finally:
        await api.close()


@pytest.fixture(scope="module")
def said(plane: ControlPlane) -> dict[str, str]:
    """Name of a manifest → what the API server says against it."""
    return asyncio.run(offer_all(plane))


def test_there_are_sixty_cases_and_half_of_them_need_no_operator() -> None:
    """Checklist G, point 2: how many negative cases there are."""
    assert len(CORPUS["bad"]) >= 60
    assert len(REFUSED) >= len(CORPUS["bad"]) / 2
    assert len({case["name"] for case in CORPUS["bad"]}) == len(CORPUS["bad"])


@pytest.mark.parametrize("words", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_the_definitions_can_be_applied(plane: ControlPlane, tmp_path: Path, words: tuple[str, ...]) -> None:
    """Checklist G, points 1 and 3: both ways of apply make them, each is small, and applied again nothing changes.

    Under another group, since those of our own group are there.
    """
    group = f"{'server' if words else 'client'}.test"
    for path in (REPOSITORY / "crds").glob("*.yaml"):
        assert path.stat().st_size < LARGEST
        (tmp_path / path.name).write_text(path.read_text().replace("fedstudy.io", group))
    try:
        kubectl(plane.kubeconfig, "apply", *words, "-f", str(tmp_path))
        names = [
            f"crd/{plural}.{group}" for plural in ("federatedstudies", "siteparticipants", "sitedatasets")
        ]
        kubectl(plane.kubeconfig, "wait", "--for=condition=Established", "--timeout=60s", *names)
        versions = ("get", *names, "-o", "jsonpath={.items[*].metadata.generation}")
        assert kubectl(plane.kubeconfig, *versions) == "1 1 1"
        kubectl(plane.kubeconfig, "apply", *words, "-f", str(tmp_path))
        assert kubectl(plane.kubeconfig, *versions) == "1 1 1"
        assert "NonStructuralSchema" not in kubectl(plane.kubeconfig, "get", *names, "-o", "yaml")
    finally:
        kubectl(plane.kubeconfig, "delete", "--ignore-not-found", "-f", str(tmp_path))


@pytest.mark.parametrize("name", CORPUS["base"])
def test_a_good_manifest_is_accepted(said: dict[str, str], name: str) -> None:
    """Checklist G, point 2: what the bad ones are made of is good."""
    assert said[name] == ""


@pytest.mark.parametrize(
    "case", [case for case in REFUSED if ours(manifest(case))], ids=lambda case: case["name"]
)
def test_a_bad_manifest_is_refused_with_its_field(said: dict[str, str], case: dict[str, Any]) -> None:
    """Checklist G, point 2: by the API server alone, in words that name the field."""
    assert said[case["name"]], "it was accepted"
    for word in case.get("server", case["expect"]):
        assert word.lower() in said[case["name"]].lower()


@pytest.mark.parametrize("name", ["unknown kind", "unknown version"])
def test_kubectl_knows_no_other_kind(plane: ControlPlane, name: str) -> None:
    """Checklist G, point 2: what no path of the API server is, kubectl refuses by what the server offers."""
    case = next(case for case in REFUSED if case["name"] == name)
    with pytest.raises(CommandError) as refused:
        kubectl(plane.kubeconfig, "apply", "-f", "-", stdin=yaml.safe_dump(manifest(case)))
    for word in case["server"]:
        assert word in str(refused.value)


async def test_what_the_server_cannot_see_the_operator_says(
    kube: Kube, start: Start, said: dict[str, str]
) -> None:
    """Checklist G, point 2, and bad input: the rest is let in, and ends in Stalled with InvalidSpec and the field."""
    assert {said[case["name"]] for case in LET_IN} == {""}
    for number, case in enumerate(LET_IN):
        await kube.create(patched(manifest(case), {"metadata": {"name": f"bad-{number}"}}))
    await start()
    for number, case in enumerate(LET_IN):
        kind = manifest(case)["kind"]
        seen = await kube.until(
            kind, f"bad-{number}", lambda o: condition(o, "Stalled").get("status") == "True"
        )
        ready, stalled = condition(seen, "Ready"), condition(seen, "Stalled")
        assert (ready["status"], ready["reason"], stalled["reason"]) == (
            "False",
            "InvalidSpec",
            "InvalidSpec",
        )
        for word in case["expect"]:
            assert word in stalled["message"], case["name"]


async def test_a_site_cannot_be_renamed(kube: Kube) -> None:
    """Checklist G, point 3: who takes part is who took part."""
    await kube.create(participant(kube.namespace))
    with pytest.raises(InvalidObjectError, match="siteName cannot be changed"):
        await kube.merge("SiteParticipant", "glioma-north", {"spec": {"siteName": "south"}})


CHANGES: list[tuple[Object, Object]] = [
    (study(), {"spec": {"suspend": True}}),
    (study(), {"spec": {"federation": {"rounds": 7}}}),
    (study(), {"spec": {"sites": [{"name": "north"}, {"name": "south"}, {"name": "west"}]}}),
    (study(), {"spec": {"aggregator": {"resources": {"limits": {"memory": "4Gi"}}}}}),
    (participant("hub"), {"spec": {"approval": {"mode": "Automatic"}}}),
    (participant("hub"), {"spec": {"trainer": {"release": "Never", "threads": 2}}}),
    (participant("hub"), {"spec": {"datasetRef": "others"}}),
    (dataset(), {"spec": {"policy": {"minSites": 5}}}),
]


@pytest.mark.parametrize(("obj", "change"), CHANGES)
async def test_the_rest_can_be_changed(kube: Kube, obj: Object, change: Object) -> None:
    """Checklist G, point 3: a change is taken, and counted as a new generation."""
    made = await kube.create(obj)
    changed = await kube.merge(obj["kind"], obj["metadata"]["name"], change)
    assert (made["metadata"]["generation"], changed["metadata"]["generation"]) == (1, 2)


async def test_explain_has_words_for_every_field(plane: ControlPlane, kube: Kube) -> None:
    """Checklist G, point 32: of the document that `kubectl explain` reads, and of what it prints."""
    document = await kube.api.request("GET", "/openapi/v3/apis/fedstudy.io/v1alpha1")
    schemas = document["components"]["schemas"]
    seen = 0
    for kind in ("FederatedStudy", "SiteParticipant", "SiteDataset"):
        fields = schemas[f"io.fedstudy.v1alpha1.{kind}"]["properties"]
        for path, field in (entry for part in ("spec", "status") for entry in walk(fields[part], part)):
            assert field.get("description"), f"{kind}.{path}"
            seen += 1
    assert seen > 150
    said = kubectl(plane.kubeconfig, "explain", "fstudy.spec.federation.minSites")
    assert "FIELD: minSites <integer>" in said
    assert schemas["io.fedstudy.v1alpha1.FederatedStudy"]["properties"]["spec"]["properties"]["federation"][
        "properties"
    ]["minSites"]["description"][:40] in " ".join(said.split())


def walk(schema: Object, path: str) -> Iterator[tuple[str, Object]]:
    """All named fields of a schema, with their paths."""
    yield path, schema
    inner = schema.get("items") or schema.get("additionalProperties") or schema
    if isinstance(inner, dict):
        for name, field in (inner.get("properties") or {}).items():
            yield from walk(field, f"{path}.{name}")
