"""Canaries: whatever is in a Secret, wherever else it has got to, is not in a support bundle."""

from __future__ import annotations

import base64
import io
import stat
import tarfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from fedstudy_operator.cluster import NotFoundError, Object
from fedstudy_operator.commands.access import Access
from fedstudy_operator.commands.bundle import Redactor, collect, pack, plain_secret, secret_values, tidy
from fedstudy_operator.commands.where import Where
from fedstudy_operator.kube.api import ForbiddenError
from fedstudy_operator.pki import make_authority

CANARY = "canary-5f3a-" + "q" * 20
PAIR = make_authority("canary", 2)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def obj(kind: str, name: str, **fields: Any) -> Object:
    return {
        "kind": kind,
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "ns", **fields.pop("metadata", {})},
        **fields,
    }


class FakeApi:
    """An API server with a few objects, and a right to everything but what is forbidden."""

    def __init__(self, objects: list[Object], logs: dict[str, str], forbidden: str = "") -> None:
        self.objects, self.logs, self.forbidden = objects, logs, forbidden

    async def request(self, method: str, path: str, **_: Any) -> Object:
        plural = path.rsplit("/", 1)[1]
        if self.forbidden and plural == self.forbidden:
            raise ForbiddenError(f"GET {path}: no")
        return {"items": [o for o in self.objects if o["kind"].lower() + "s" == plural]}

    async def text(self, path: str, *, query: dict[str, str]) -> str:
        pod = path.split("/")[-2]
        if query.get("previous") or pod not in self.logs:
            raise NotFoundError(path)
        return self.logs[pod]


def a_namespace() -> tuple[list[Object], dict[str, str]]:
    applied = {"kubectl.kubernetes.io/last-applied-configuration": f'{{"stringData":{{"token":"{CANARY}"}}}}'}
    secret = obj(
        "Secret",
        "invitation",
        metadata={"annotations": applied, "managedFields": [{"x": CANARY}]},
        data={"tls.key": b64(PAIR.key_pem), "tls.crt": b64(PAIR.certificate_pem), "token": b64(CANARY)},
    )
    labels = {"app.kubernetes.io/name": "fedstudy"}
    pods = [
        obj("Pod", "agent-0", metadata={"labels": labels}, spec={"env": [{"name": "X", "value": CANARY}]}),
        obj("Pod", "foreign", spec={}),
    ]
    notes = obj("ConfigMap", "notes", data={"copy": b64(CANARY), "key": PAIR.key_pem, CANARY: "x"})
    event = obj("Event", "e", note=f"could not use {CANARY}")
    logs = {
        "agent-0": f"starting\ntoken={CANARY}\n{PAIR.key_pem}\n"
        + "\n".join(PAIR.key_pem.splitlines()[1:2])
        + "\ndone\n"
    }
    return [secret, *pods, notes, event], logs | {"foreign": "a foreign program's words"}


async def bundle(folder: Path, *, forbidden: str = "") -> dict[str, str]:
    """Collect, pack, and read again: file → text."""
    objects, logs = a_namespace()
    access = Access(FakeApi(objects, logs, forbidden), Where(), "ns")  # type: ignore[arg-type]
    return unpacked(pack(await collect(access), folder / "bundle.tar.gz"))


def unpacked(path: Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        return {m.name: io.TextIOWrapper(tar.extractfile(m) or io.BytesIO()).read() for m in tar.getmembers()}


async def test_no_canary_is_in_the_bundle(tmp_path: Path) -> None:
    files = await bundle(tmp_path)
    everything = "\n".join([*files, *files.values()])
    for secret in (CANARY, b64(CANARY), "PRIVATE KEY-----\n", *PAIR.key_pem.splitlines()[1:-1]):
        assert secret not in everything, secret
    assert "a foreign program's words" not in everything, "only our own pods' logs"
    log = files["fedstudy-support/logs/agent-0.log"]
    assert log.startswith("starting\n")
    assert log.endswith("done\n")


async def test_what_helps_is_in_it(tmp_path: Path) -> None:
    files = await bundle(tmp_path)
    secret = yaml.safe_load(files["fedstudy-support/Secret/invitation.yaml"])
    assert secret["data"]["token"] == f"(redacted, {len(CANARY)} bytes)"
    assert set(secret["data"]) == {"tls.key", "tls.crt", "token"}
    assert "could not use (redacted)" in files["fedstudy-support/Event/e.yaml"]
    assert yaml.safe_load(files["fedstudy-support/about.yaml"])["not collected"] == []


async def test_what_may_not_be_read_is_said(tmp_path: Path) -> None:
    files = await bundle(tmp_path, forbidden="events")
    assert "Event: GET" in yaml.safe_load(files["fedstudy-support/about.yaml"])["not collected"][0]


async def test_only_its_maker_can_read_it(tmp_path: Path) -> None:
    await bundle(tmp_path)
    assert stat.S_IMODE((tmp_path / "bundle.tar.gz").stat().st_mode) == 0o600


@given(st.binary(min_size=8, max_size=80), st.text(max_size=30), st.text(max_size=30))
@example(b"line one is long\nline two is long", "", "")
def test_a_value_is_found_in_plain_and_in_base64(value: bytes, before: str, after: str) -> None:
    encoded = base64.b64encode(value).decode()
    redactor = Redactor([value])
    assert encoded not in redactor.text(f"{before} {encoded} {after}")
    text = value.decode(errors="ignore")
    if len(text) >= 8:
        assert text not in redactor.text(f"{before}{text}{after}").replace("(redacted)", "")


def test_short_values_do_not_eat_words() -> None:
    assert Redactor([b"a", b"true"]).text("a true word") == "a true word"


def test_certificates_stay_and_keys_go() -> None:
    secret = {
        "data": {"tls.crt": b64(PAIR.certificate_pem), "both": b64(PAIR.certificate_pem + PAIR.key_pem)}
    }
    assert secret_values([secret]) == [(PAIR.certificate_pem + PAIR.key_pem).encode()]
    assert Redactor([]).text(f"x {PAIR.key_pem} y").split() == ["x", "(redacted)", "y"]
    assert "(redacted)" in Redactor([]).text("-----BEGIN EC PRIVATE KEY-----\ncut off in the mid"), (
        "also half a key"
    )


def test_a_secret_keeps_its_outline() -> None:
    made = plain_secret({"kind": "Secret", "metadata": {"name": "x"}, "stringData": {"a": "xyz"}})
    assert made == {"kind": "Secret", "metadata": {"name": "x"}, "data": {"a": "(redacted, 3 bytes)"}}
    assert tidy({"metadata": {"name": "x", "managedFields": []}}) == {"metadata": {"name": "x"}}
