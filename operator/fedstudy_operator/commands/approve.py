"""`kubectl fedstudy approve`: the steward's word on a plan, written under a manager and a name of its own."""

from __future__ import annotations

from datetime import datetime

from fedstudy.errors import ManifestError, PlanError, RefusedError
from fedstudy_operator.api.meta import API_VERSION
from fedstudy_operator.cluster import Object
from fedstudy_operator.commands.access import Access
from fedstudy_operator.commands.plan import offered

MANAGER = "fedstudy-approval"
_WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


async def approve(access: Access, name: str, digest: str, not_after: str = "", *, force: bool = False) -> str:
    """Approve the offered plan; what was approved, in a sentence.

    Args:
        digest: the whole digest, as `plan` printed it.
        not_after: RFC 3339; empty: no end.
        force: take the field over from whoever holds it.

    Raises:
        PlanError: another plan is offered.
        RefusedError: the approval is kept elsewhere (Git), or the right to approve is missing.
    """
    participant, plan = await offered(access, name)
    if digest != plan.digest():
        raise PlanError(
            f"{digest} is not the plan that is offered to {name}: that is {plan.digest()}.",
            f"Read it with `kubectl fedstudy plan {name}`, and approve what you have read.",
        )
    who = await approver(access)
    wanted = approval(participant.metadata.name, access.namespace, digest, who, checked_time(not_after))
    try:
        await access.apply(wanted, MANAGER, force=force)
    except Exception as error:
        if "conflict" in str(error).lower():
            raise RefusedError(
                f"The approval of {name} is kept by somebody else: {error}",
                "Change it there (in Git, most likely), or take it over with --force.",
            ) from error
        raise
    return f"{name}: {who} approved {digest}{f' until {not_after}' if not_after else ''}."


def approval(name: str, namespace: str, digest: str, who: str, not_after: str) -> Object:
    """What is applied: the approval, and no other field."""
    said = {"planDigest": digest, "approvedBy": who[:256], **({"notAfter": not_after} if not_after else {})}
    return {
        "apiVersion": API_VERSION,
        "kind": "SiteParticipant",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"approval": said},
    }


def checked_time(text: str) -> str:
    """A time with a zone, as it was written.

    Raises:
        ManifestError: it is none.
    """
    if not text:
        return ""
    try:
        zone = datetime.fromisoformat(text).tzinfo
    except ValueError:
        zone = None
    if zone is None or "T" not in text:
        raise ManifestError(f"{text!r} is no time.", "Write it as 2027-01-31T23:59:59Z.")
    return text


async def approver(access: Access) -> str:
    """Who we are to the cluster."""
    body: Object = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    said = await access.api.request("POST", _WHO, body=body)
    return str(((said.get("status") or {}).get("userInfo") or {}).get("username") or "unknown")
