"""The commands against a real API server: what they write, under whose name, and what they refuse. No operator runs: its statuses are written here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import small_study
from tests.cli.conftest import Run
from tests.cli.test_a_support_bundle_holds_no_secret import CANARY, b64, unpacked
from tests.cluster import fixtures
from tests.cluster.control_plane import REPOSITORY, ControlPlane

from fedstudy.plan import StudyPlan
from fedstudy_operator.api import FederatedStudy
from fedstudy_operator.kube.api import Api, connect
from fedstudy_operator.pki import make_authority

pytestmark = pytest.mark.cluster
HUB, SITE = "cli-hub", "cli-north"
STUDY = small_study.spec(federation={"rounds": 2, "minSites": 1}, sites=[{"name": "north"}])
PARTICIPANT = {"study": {"name": "glioma", "namespace": HUB}, "siteName": "north", "datasetRef": "scans"}
APPLY = "application/apply-patch+yaml"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with fixtures.control_plane(tmp_path_factory.mktemp("cli")) as made:
        asyncio.run(prepare(made))
        yield made


@pytest.fixture
def cluster(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> ControlPlane:
    """The cluster that commands see."""
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
    return plane


def ask(plane: ControlPlane, method: str, path: str, body: Any = None, manager: str = "") -> Any:
    """One request as the administrator; with a manager, a server-side apply."""

    async def go() -> Any:
        api = Api(await connect(str(plane.kubeconfig)))
        try:
            return await request(api, method, path, body, manager)
        finally:
            await api.close()

    return asyncio.run(go())


async def request(api: Api, method: str, path: str, body: Any = None, manager: str = "") -> Any:
    query = {"fieldManager": manager, "force": "true"} if manager else {}
    return await api.request(
        method, path, query=query, body=body, content_type=APPLY if manager else "application/json"
    )


def root(namespace: str, plural: str, name: str = "", *, core: bool = False) -> str:
    group = "/api/v1" if core else "/apis/fedstudy.io/v1alpha1"
    return f"{group}/namespaces/{namespace}/{plural}{'/' + name if name else ''}"


def ours(kind: str, name: str, namespace: str, **fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": "fedstudy.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        **fields,
    }


async def prepare(plane: ControlPlane) -> None:
    """Custom resources, two namespaces, a study with an invitation, and a participant to which the plan is offered."""
    api = Api(await connect(str(plane.kubeconfig)))
    try:
        for file in sorted((REPOSITORY / "crds").glob("*.yaml")):
            crd = yaml.safe_load(file.read_text())
            path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}"
            await request(api, "PATCH", path, crd, "test")
            async with asyncio.timeout(60):
                while not established(await request(api, "GET", path)):  # noqa: ASYNC110 - the server sends no event here
                    await asyncio.sleep(0.2)
        for namespace in (HUB, SITE):
            made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
            await request(api, "POST", "/api/v1/namespaces", made)
        await offer(api)
    finally:
        await api.close()


def established(crd: dict[str, Any]) -> bool:
    conditions = (crd.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


async def offer(api: Api) -> None:
    study = await request(
        api, "POST", root(HUB, "federatedstudies"), ours("FederatedStudy", "glioma", HUB, spec=STUDY)
    )
    plan = FederatedStudy.model_validate(study).plan()
    pair = make_authority("x", 2)
    data = {
        "tls.crt": pair.certificate_pem,
        "tls.key": pair.key_pem,
        "ca.crt": pair.certificate_pem,
        "endpoint": "hub.example.org:443",
        "token": CANARY,
    }
    secret = {
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "glioma-invitation-north", "namespace": HUB},
        "data": {name: b64(text) for name, text in data.items()},
    }  # fmt: skip
    await request(api, "POST", root(HUB, "secrets", core=True), secret)
    notes = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "notes"},
        "data": {"copy": f"x {CANARY} {b64(CANARY)}"},
    }
    await request(api, "POST", root(HUB, "configmaps", core=True), notes)
    offered = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "glioma-plan"},
        "data": {"plan.json": plan.canonical().decode()},
    }
    await request(api, "POST", root(SITE, "configmaps", core=True), offered)
    await request(
        api, "POST", root(SITE, "siteparticipants"), ours("SiteParticipant", "glioma", SITE, spec=PARTICIPANT)
    )
    status = {"observedGeneration": 1, "offeredPlan": {"digest": plan.digest(), "configMap": "glioma-plan"}}
    body = ours("SiteParticipant", "glioma", SITE, status=status)
    await request(
        api, "PATCH", root(SITE, "siteparticipants", "glioma") + "/status", body, "fedstudy-operator-status"
    )


def participant(plane: ControlPlane) -> Any:
    return ask(plane, "GET", root(SITE, "siteparticipants", "glioma"))


def digest(plane: ControlPlane) -> str:
    return str(participant(plane)["status"]["offeredPlan"]["digest"])


def test_the_plan_is_read_and_approved_under_a_name(cluster: ControlPlane, run: Run) -> None:
    offered = digest(cluster)
    said = run("plan", "glioma", "-n", SITE)
    assert (said.code, said.err) == (0, "")
    assert offered in said.out
    wrong = run("approve", "glioma", "-n", SITE, "--digest", "sha256:" + "0" * 64)
    assert wrong.code == 5
    assert f"that is {offered}" in wrong.err
    assert "approval" not in participant(cluster)["spec"]
    done = run("approve", "glioma", "-n", SITE, "--digest", offered, "--not-after", "2030-01-01T00:00:00Z")
    assert done.code == 0, done.err
    found = participant(cluster)
    approval = found["spec"]["approval"]
    assert approval == {
        "planDigest": offered,
        "approvedBy": approval["approvedBy"],
        "notAfter": "2030-01-01T00:00:00Z",
    }
    assert approval["approvedBy"]
    fields = next(m for m in found["metadata"]["managedFields"] if m["manager"] == "fedstudy-approval")[
        "fieldsV1"
    ]
    assert set(fields) == {"f:spec"}
    assert set(fields["f:spec"]) == {"f:approval"}
    assert f"Approved by {approval['approvedBy']}" in run("plan", "glioma", "-n", SITE).out


def test_an_approval_that_git_keeps_is_taken_over_only_by_force(cluster: ControlPlane, run: Run) -> None:
    offered = digest(cluster)
    kept = ours(
        "SiteParticipant",
        "glioma",
        SITE,
        spec={"approval": {"planDigest": "sha256:" + "1" * 64, "approvedBy": "git"}},
    )
    ask(cluster, "PATCH", root(SITE, "siteparticipants", "glioma"), kept, "gitops")
    said = run("approve", "glioma", "-n", SITE, "--digest", offered)
    assert said.code == 6
    assert "gitops" in said.err
    assert participant(cluster)["spec"]["approval"]["approvedBy"] == "git"
    assert run("approve", "glioma", "-n", SITE, "--digest", offered, "--force").code == 0
    assert participant(cluster)["spec"]["approval"]["planDigest"] == offered


def test_a_changed_config_map_is_not_shown_as_the_offer(cluster: ControlPlane, run: Run) -> None:
    path = root(SITE, "configmaps", "glioma-plan", core=True)
    good = ask(cluster, "GET", path)["data"]["plan.json"]
    other = StudyPlan.parse(good.encode()).model_copy(update={"title": "another"}).canonical().decode()
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "glioma-plan"}}
    ask(cluster, "PATCH", path, {**config, "data": {"plan.json": other}}, "somebody")
    try:
        said = run("plan", "glioma", "-n", SITE)
        assert said.code == 5
        assert "is offered" in said.err
        assert run("approve", "glioma", "-n", SITE, "--digest", digest(cluster)).code == 5
    finally:
        ask(cluster, "PATCH", path, {**config, "data": {"plan.json": good}}, "somebody")


def test_an_invitation_is_taken_by_the_api_server_as_it_is_printed(cluster: ControlPlane, run: Run) -> None:
    said = run("invite", "glioma", "north", "-n", HUB, "--site-namespace", SITE)
    assert said.code == 0, said.err
    assert "encrypt it" in said.err
    secret, part = yaml.safe_load_all(said.out.replace("CHANGE-ME", "scans"))
    part["metadata"]["name"] = "remote"
    ask(cluster, "PATCH", root(SITE, "secrets", secret["metadata"]["name"], core=True), secret, "test")
    ask(cluster, "PATCH", root(SITE, "siteparticipants", "remote"), part, "test")
    ask(cluster, "DELETE", root(SITE, "siteparticipants", "remote"))
    stranger = run("invite", "glioma", "nobody", "-n", HUB)
    assert stranger.code == 3
    assert "it lists north" in stranger.err


def test_suspend_and_resume_change_one_field(cluster: ControlPlane, run: Run) -> None:
    for words, value in (("suspend", True), ("resume", False)):
        for name, namespace, plural in (
            ("glioma", HUB, "federatedstudies"),
            ("glioma", SITE, "siteparticipants"),
        ):
            before = ask(cluster, "GET", root(namespace, plural, name))["spec"]
            assert run(words, name, "-n", namespace).code == 0
            after = ask(cluster, "GET", root(namespace, plural, name))["spec"]
            assert after == {**before, "suspend": value}


def test_status_shows_studies_and_parts(cluster: ControlPlane, run: Run) -> None:
    everything = run("status", "-A")
    assert f"{HUB}/glioma" in everything.out
    assert f"{SITE}/glioma" in everything.out
    only = run("status", "glioma", "-n", SITE)
    assert "north" in only.out
    assert HUB not in only.out


def test_the_bundle_has_the_objects_and_no_canary(cluster: ControlPlane, run: Run, tmp_path: Path) -> None:
    said = run("support-bundle", "-n", HUB, "-o", str(tmp_path / "b.tar.gz"))
    assert said.code == 0, said.err
    files = unpacked(tmp_path / "b.tar.gz")
    assert "fedstudy-support/FederatedStudy/glioma.yaml" in files
    assert yaml.safe_load(files["fedstudy-support/about.yaml"])["not collected"] == []
    everything = json.dumps(files)
    assert CANARY not in everything
    assert b64(CANARY) not in everything
    assert "PRIVATE KEY-----\\n" not in everything


@pytest.mark.parametrize(
    "words",
    [
        ("status", "nothing"),
        ("plan", "nothing"),
        ("results", "nothing"),
        ("logs", "nothing"),
        ("suspend", "nothing"),
        ("invite", "nothing", "x"),
    ],
)
def test_what_is_not_there_is_named(cluster: ControlPlane, run: Run, words: tuple[str, ...]) -> None:
    said = run(*words, "-n", HUB)
    assert said.code == 3
    assert "nothing" in said.err
    assert "Traceback" not in said.err
