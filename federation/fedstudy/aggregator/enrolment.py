"""Enrolment: a CSR under an invitation waits for the operator's decision; an invitation gives one certificate, once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from fedstudy.aggregator.engine import Engine
from fedstudy.aggregator.store import Enrolment
from fedstudy.errors import RefusedError
from fedstudy.wire.admin import AcceptEnrolment, PendingEnrolment, RefuseEnrolment
from fedstudy.wire.credentials import certificate_facts, key_fingerprint

RENEWAL = "renewal/"
"""Stands before a site's name where a renewal has no invitation; no invitation's name has a slash."""

FRESH = 0.5
"""A renewed certificate that is not half spent is given again: the site has not got it, or its clock is ahead."""

PENDING, ACCEPTED, REFUSED = "Pending", "Accepted", "Refused"


class Enrolments:
    """All enrolments of a study."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._store, self._bell = engine, engine.store, engine.bell

    def pending(self) -> list[PendingEnrolment]:
        """Those that wait for a decision."""
        return [
            PendingEnrolment(
                invitation=e.invitation,
                key_fingerprint=e.fingerprint,
                csr_pem=e.csr,
                renews=_renewed(e.invitation),
            )
            for e in self._store.enrolments()
            if e.decision == PENDING
        ]

    async def enrol(self, invitation: str, csr_pem: str) -> Enrolment:
        """Wait for the decision on a CSR; the same key asking again gets the same answer.

        Raises:
            RefusedError: the CSR is no good, was refused, or the invitation was used by another key.
            NoSpaceError: the disk is full.
            ConnectionLostError: the process is stopping.
        """
        fingerprint = key_fingerprint(csr_pem)
        self._register(invitation, fingerprint, csr_pem)
        return await self._decided(invitation, fingerprint)

    async def renew(self, site: str, csr_pem: str) -> Enrolment:
        """Wait for the decision on a site's next certificate.

        Raises:
            As `enrol`; refused, the site may ask again.
        """
        name, fingerprint = RENEWAL + site, key_fingerprint(csr_pem)
        known = self._store.enrolment(name)
        if known is None or known.fingerprint != fingerprint or not _stands(known):
            self._store.put_enrolment(Enrolment(name, fingerprint, csr_pem, PENDING))
            self._bell.ring()
        return await self._decided(name, fingerprint)

    async def _decided(self, invitation: str, fingerprint: str) -> Enrolment:
        while True:
            ring = self._bell.next()
            self._engine.require_running()
            entry = self._store.enrolment(invitation)
            if entry is None or entry.fingerprint != fingerprint:
                raise RefusedError("Another key asked for a certificate under this invitation.", _ANEW)
            if entry.decision == REFUSED:
                raise RefusedError(f"The enrolment was refused: {entry.reason}", _ANEW)
            if entry.decision == ACCEPTED:
                return entry
            await ring.wait()

    def _register(self, invitation: str, fingerprint: str, csr_pem: str) -> None:
        known = self._store.enrolment(invitation)
        if known is not None and known.fingerprint == fingerprint:
            return
        if known is not None and known.decision == ACCEPTED:
            raise RefusedError(f"The invitation was used before, by another key, for {known.site}.", _ANEW)
        # A key that was refused, or never decided upon, has not used the invitation up.
        self._store.put_enrolment(Enrolment(invitation, fingerprint, csr_pem, PENDING))
        self._bell.ring()

    def decide(self, decision: AcceptEnrolment | RefuseEnrolment) -> None:
        """Write the operator's decision down; again is no fault.

        Raises:
            RefusedError: no such CSR waits, or it was decided otherwise.
            NoSpaceError: the disk is full.
        """
        entry = self._store.enrolment(decision.invitation)
        if entry is None or entry.fingerprint != decision.key_fingerprint:
            raise RefusedError(
                f"No request of key {decision.key_fingerprint} waits under {decision.invitation}."
            )
        if isinstance(decision, AcceptEnrolment):
            decided = replace(
                entry,
                decision=ACCEPTED,
                site=decision.site,
                certificate=decision.certificate_pem,
                authority=decision.authority_pem,
            )
        else:
            decided = replace(entry, decision=REFUSED, reason=decision.reason)
        if entry.decision == PENDING:
            self._store.put_enrolment(decided)
            self._bell.ring()
        elif entry.decision != decided.decision:
            raise RefusedError(
                f"The enrolment under {decision.invitation} is {entry.decision.lower()} already."
            )

    def enrolled(self) -> set[str]:
        """Sites that have a certificate."""
        return {e.site for e in self._store.enrolments() if e.decision == ACCEPTED}


_ANEW = "Ask the study's lead for a new invitation."


def _renewed(invitation: str) -> str:
    return invitation.removeprefix(RENEWAL) if invitation.startswith(RENEWAL) else ""


def _stands(entry: Enrolment) -> bool:
    """Whether a renewal waits for its decision, or has one that is still good."""
    if entry.decision == ACCEPTED:
        return certificate_facts(entry.certificate).spent(datetime.now(UTC)) < FRESH
    return entry.decision == PENDING
