"""Children that are lost come back, edits of what the operator owns are undone, and what belongs to others stays."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.kube.conftest import Kube, Start, condition, dataset, participant, study, until

from fedstudy_operator.cluster import Object

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CHILDREN = (
    ("Service", "glioma-aggregator"),
    ("ConfigMap", "glioma-plan"),
    ("NetworkPolicy", "glioma-aggregator"),
    ("PodDisruptionBudget", "glioma-aggregator"),
    ("StatefulSet", "glioma-aggregator"),
    ("Secret", "glioma-aggregator-tls"),
    ("Secret", "glioma-invitation-north"),
    ("Service", "glioma-north-agent"),
    ("StatefulSet", "glioma-north-agent"),
    ("Secret", "glioma-north-agent-tls"),
)


async def _study_with_a_hospital(kube: Kube) -> None:
    await kube.create(study())
    await kube.create(dataset())
    await kube.create(participant(kube.namespace))
    for kind, name in CHILDREN:
        await kube.until(kind, name, lambda obj: True)


async def test_a_lost_child_is_made_again(kube: Kube, start: Start) -> None:
    """Checklist G, point 7: delete any child, and it is there again (the time is printed)."""
    await start()
    await _study_with_a_hospital(kube)
    for kind, name in CHILDREN:
        old = await kube.get(kind, name)
        assert old is not None
        uid, began = old["metadata"]["uid"], time.monotonic()
        await kube.delete(kind, name)
        await kube.until(kind, name, lambda obj, uid=uid: obj["metadata"]["uid"] != uid)  # type: ignore[misc]
        print(f"{kind} {name}: again after {time.monotonic() - began:.2f} s")


async def test_what_the_operator_owns_is_restored_and_the_rest_is_left_alone(
    kube: Kube, start: Start
) -> None:
    """Checklist G, point 7: an edited field of ours goes back, a field of somebody else stays."""
    await start()
    await kube.create(study())
    made = await kube.until("Service", "glioma-aggregator", lambda obj: True)
    port = made["spec"]["ports"][0]
    await kube.merge(
        "Service",
        "glioma-aggregator",
        {
            "metadata": {"annotations": {"example.org/theirs": "kept"}},
            "spec": {"ports": [{**port, "port": 9999}]},
        },
    )
    back = await kube.until(
        "Service",
        "glioma-aggregator",
        lambda obj: obj["spec"]["ports"][0]["port"] == port["port"],
        "our port is back",
    )
    assert len(back["spec"]["ports"]) == 1
    assert back["metadata"]["annotations"]["example.org/theirs"] == "kept"
    labels = {"metadata": {"labels": {"example.org/team": "blue", "app.kubernetes.io/name": "spoilt"}}}
    await kube.merge("StatefulSet", "glioma-aggregator", labels)
    back = await kube.until(
        "StatefulSet",
        "glioma-aggregator",
        lambda obj: obj["metadata"]["labels"]["app.kubernetes.io/name"] == "fedstudy",
    )
    assert back["metadata"]["labels"]["example.org/team"] == "blue"


async def test_a_spoilt_secret_is_made_good(kube: Kube, start: Start) -> None:
    """Bad input: a certificate that somebody overwrote with rubbish is issued anew, and no pass fails for ever."""
    await start()
    await kube.create(study())
    old = await kube.until("Secret", "glioma-aggregator-tls", lambda obj: True)
    await kube.merge("Secret", "glioma-aggregator-tls", {"data": {"tls.crt": "cnViYmlzaA=="}})
    await kube.until(
        "Secret",
        "glioma-aggregator-tls",
        lambda obj: obj["data"]["tls.crt"] not in ("cnViYmlzaA==", old["data"]["tls.crt"]),
    )


async def test_a_lost_authority_is_said_and_comes_back_from_a_backup_only(kube: Kube, start: Start) -> None:
    """Bad input: a deleted Secret that sites trust ends in a typed condition; restored, all is well again."""
    operator = await start()
    await kube.create(study())
    made = await kube.until("FederatedStudy", "glioma", lambda o: _certificates(o) == "Issued")
    backup = await kube.get("Secret", "glioma-authority")
    assert backup is not None
    await kube.delete("Secret", "glioma-authority")
    await kube.until("FederatedStudy", "glioma", lambda o: _certificates(o) == "AuthorityLost")
    await operator.stop()
    await start(name="another")  # which has never seen it
    changed = await kube.merge("FederatedStudy", "glioma", {"spec": {"suspend": True}})
    generation = changed["metadata"]["generation"]
    lost = await kube.until(
        "FederatedStudy", "glioma", lambda o: o["status"]["observedGeneration"] == generation
    )
    assert _certificates(lost) == "AuthorityLost"
    assert lost["status"]["caFingerprint"] == made["status"]["caFingerprint"]
    assert await kube.get("Secret", "glioma-authority") is None
    kept = {name: backup["metadata"][name] for name in ("name", "labels", "ownerReferences")}
    await kube.create({**backup, "metadata": kept})
    back = await kube.until("FederatedStudy", "glioma", lambda o: _certificates(o) == "Issued")
    assert back["status"]["caFingerprint"] == made["status"]["caFingerprint"]


async def test_an_authority_is_replaced_where_a_person_asks_for_it(kube: Kube, start: Start) -> None:
    """The annotation names the one that is to go; certificates and invitations are then the new one's."""
    await start()
    await kube.create(study())
    made = await kube.until("FederatedStudy", "glioma", lambda o: _certificates(o) == "Issued")
    old = made["status"]["caFingerprint"]
    invitation = await kube.until("Secret", "glioma-invitation-north", lambda o: True)
    await kube.merge(
        "FederatedStudy", "glioma", {"metadata": {"annotations": {"fedstudy.io/replace-authority": old}}}
    )
    await kube.until("FederatedStudy", "glioma", lambda o: o["status"]["caFingerprint"] != old)
    authority = await kube.until("Secret", "glioma-authority", lambda o: True)
    for name in ("glioma-aggregator-tls", "glioma-operator-tls", "glioma-invitation-north"):
        secret = await kube.until("Secret", name, lambda o: True)
        assert secret["data"]["ca.crt"] == authority["data"]["tls.crt"]
        assert secret["data"]["ca.crt"] != invitation["data"]["ca.crt"]


def _certificates(obj: Object) -> str:
    return str(condition(obj, "CertificatesReady").get("reason", ""))


async def test_a_study_that_is_deleted_takes_all_along(kube: Kube, start: Start) -> None:
    """Bad input: deleted in the middle of things; nothing is left over, and nothing is made again."""
    await start()
    await _study_with_a_hospital(kube)
    await kube.delete("SiteParticipant", "glioma-north")
    await kube.delete("FederatedStudy", "glioma")

    async def gone() -> bool:
        kinds = ("StatefulSet", "Service", "ConfigMap", "Secret", "NetworkPolicy", "PodDisruptionBudget")
        labels = {"app.kubernetes.io/managed-by": "fedstudy-operator"}
        return not any([await kube.list(kind, **labels) for kind in kinds])

    await until(gone, "all children are gone")
    await asyncio.sleep(2)
    assert await gone()


async def test_ten_flips_of_suspend_end_where_they_should(kube: Kube, start: Start) -> None:
    """Checklist G, point 20 (without nodes): suspend goes to and fro ten times, and the last word holds."""
    await start()
    await kube.create(study())
    for suspend in [True, False] * 5 + [True]:
        await kube.merge("FederatedStudy", "glioma", {"spec": {"suspend": suspend}})
    obj = await kube.until(
        "FederatedStudy",
        "glioma",
        lambda o: o["status"].get("observedGeneration") == o["metadata"]["generation"],
    )
    assert condition(obj, "Suspended")["status"] == "True"
    assert obj["metadata"]["generation"] == 12
