"""kube/states.py: conditions, rounds, hospitals and certificates are metrics; what is over raises no alert any more."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

from fedstudy_operator.kube.states import States

Object = dict[str, Any]


def study(**conditions: str) -> Object:
    return {
        "kind": "FederatedStudy",
        "metadata": {"namespace": "hub", "name": "glioma"},
        "status": {
            "conditions": [
                {"type": kind, "status": status, "reason": f"{kind}Reason"}
                for kind, status in conditions.items()
            ],
            "round": {"current": 3, "completed": 2, "total": 20},
            "sites": [
                {"name": "a", "decision": "Enrolled", "connected": True, "bytes": 10},
                {"name": "b", "decision": "Enrolled", "connected": False},
                {"name": "c", "decision": "Invited", "connected": False},
            ],
        },
    }


def participant(**conditions: str) -> Object:
    obj = study(**conditions)
    return {
        "kind": "SiteParticipant",
        "metadata": {"namespace": "neuro", "name": "glioma"},
        "status": {
            "conditions": obj["status"]["conditions"],
            "round": 3,
            "certificate": {"notAfter": "2027-01-01T00:00:00Z"},
        },
    }


def shown(*objects: Object) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(States(lambda: objects))
    return registry


def test_conditions_are_there_unless_unknown() -> None:
    registry = shown(study(Ready="False", Stalled="True", Reconciling="Unknown", CertificatesReady="True"))

    def value(kind: str) -> float | None:
        labels = {
            "kind": "FederatedStudy",
            "namespace": "hub",
            "name": "glioma",
            "type": kind,
            "reason": f"{kind}Reason",
        }
        return registry.get_sample_value("fedstudy_condition", labels)

    assert [value(kind) for kind in ("Ready", "Stalled", "Reconciling", "CertificatesReady")] == [
        0,
        1,
        None,
        None,
    ]


def test_a_study_shows_its_round_and_the_hospitals_that_have_enrolled() -> None:
    registry = shown(study(Ready="True"))
    where = {"namespace": "hub", "name": "glioma"}
    assert registry.get_sample_value("fedstudy_round", {"kind": "FederatedStudy", **where}) == 3
    assert registry.get_sample_value("fedstudy_rounds", where) == 20
    connected = [registry.get_sample_value("fedstudy_site_connected", {**where, "site": s}) for s in "abc"]
    assert connected == [1, 0, None], "who has not enrolled yet is not lost"
    assert registry.get_sample_value("fedstudy_site_received_bytes_total", {**where, "site": "a"}) == 10


def test_what_is_over_is_missed_by_nobody() -> None:
    where = {"namespace": "hub", "name": "glioma"}
    registry = shown(study(Ready="True", Complete="True"), participant(HubConnected="False", Complete="True"))
    assert registry.get_sample_value("fedstudy_site_connected", {**where, "site": "b"}) is None
    ours = {"namespace": "neuro", "name": "glioma"}
    lost = {"kind": "SiteParticipant", **ours, "type": "HubConnected", "reason": "HubConnectedReason"}
    assert registry.get_sample_value("fedstudy_condition", lost) is None
    assert registry.get_sample_value("fedstudy_certificate_not_after_seconds", ours) is None


def test_a_participant_shows_its_certificates_end_and_a_lost_hub() -> None:
    registry = shown(participant(HubConnected="False"))
    ours = {"namespace": "neuro", "name": "glioma"}
    assert registry.get_sample_value("fedstudy_certificate_not_after_seconds", ours) == 1798761600
    lost = {"kind": "SiteParticipant", **ours, "type": "HubConnected", "reason": "HubConnectedReason"}
    assert registry.get_sample_value("fedstudy_condition", lost) == 0


def test_a_resource_without_status_is_no_fault() -> None:
    registry = shown({"kind": "FederatedStudy", "metadata": {"namespace": "hub", "name": "new"}})
    assert registry.get_sample_value("fedstudy_rounds", {"namespace": "hub", "name": "new"}) is None
