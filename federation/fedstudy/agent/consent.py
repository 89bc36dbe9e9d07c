"""Whether the hospital consents, now: the offered plan, the steward's wishes, and the verdict over both. All of it durable."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import ValidationError

from fedstudy.agent.policy import ApprovalReason, ApprovalVerdict, Violation, approval, evaluate
from fedstudy.agent.store import Store
from fedstudy.errors import PlanError
from fedstudy.plan import StudyPlan
from fedstudy.wire.admin import Configure

_REMEDY = "The hub's aggregator offers it; ask the hub's administrator. Nothing was run."


@dataclass(frozen=True)
class Offered:
    """A plan as offered, checked.

    Attributes:
        document: canonical bytes; their sha256 is the digest.
    """

    plan: StudyPlan
    document: bytes
    digest: str


def checked_offer(document: bytes, digest: str) -> Offered:
    """A plan off the wire.

    Raises:
        PlanError: it is not a plan, its bytes are not its canonical form, or the digest is another's.
    """
    try:
        plan = StudyPlan.parse(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "document"
        raise PlanError(f"The offered plan is malformed: {place}: {first['msg']}.", _REMEDY) from None
    if plan.canonical() != document:
        raise PlanError(
            "The offered plan is not in canonical form, so its digest could stand for another plan.", _REMEDY
        )
    if plan.digest() != digest:
        raise PlanError(f"The offered plan's digest is {plan.digest()}, but the hub says {digest}.", _REMEDY)
    return Offered(plan, document, digest)


class Consent:
    """The offered plan and the hospital's wishes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        document, wishes = store.fact("plan"), store.fact("configure")
        self.offered = self._restored(document) if document else None
        self.wishes = Configure.model_validate_json(wishes) if wishes else None

    def offer(self, document: bytes, digest: str) -> bool:
        """Take the plan that the hub offers; True when it is another one than before.

        Raises:
            PlanError: as `checked_offer`; the plan before stays.
        """
        offered = checked_offer(document, digest)
        if self.offered is not None and self.offered.digest == digest:
            return False
        self._store.set_fact("plan", document)
        self.offered = offered
        return True

    def configure(self, wishes: Configure) -> None:
        """Take the hospital's wishes; they replace what was said before."""
        self._store.set_fact("configure", wishes.model_dump_json(by_alias=True).encode())
        self.wishes = wishes

    def verdict(self) -> ApprovalVerdict:
        """Whether the offered plan may run now; without a plan, or before the hospital has spoken, it may not."""
        if self.offered is None or self.wishes is None:
            return ApprovalVerdict(False, ApprovalReason.WAITING)
        return approval(
            self.offered.plan,
            self.wishes.approval,
            self.wishes.policy,
            datetime.now(UTC),
            studies_using_dataset=self.wishes.studies_using_dataset,
        )

    def violations(self) -> list[Violation]:
        """What of the offered plan the policy refuses."""
        if self.offered is None or self.wishes is None:
            return []
        return evaluate(
            self.offered.plan,
            self.wishes.policy,
            studies_using_dataset=self.wishes.studies_using_dataset,
        )

    @property
    def suspended(self) -> bool:
        """Whether the hospital has paused its part."""
        return self.wishes is not None and self.wishes.suspend

    @property
    def given(self) -> bool:
        """Whether instructions may pass now."""
        return not self.suspended and self.verdict().approved

    @staticmethod
    def _restored(document: bytes) -> Offered:
        plan = StudyPlan.parse(document)
        return Offered(plan, document, plan.digest())
