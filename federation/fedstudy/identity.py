"""Who a peer is: URI names in certificates (SPIFFE form) and their meaning.

spiffe://<trust domain>/study/<uid>/site/<name>           a hospital's agent, towards the aggregator
spiffe://<trust domain>/study/<uid>/invitation/<id>       a bootstrap certificate: Enroll only
spiffe://<trust domain>/study/<uid>/aggregator            the aggregator itself (also its DNS name, `aggregator`)
spiffe://<trust domain>/study/<uid>/operator              the hub's operator, towards its aggregator
spiffe://<trust domain>/participant/<uid>/agent|trainer|operator    inside one hospital (DNS name of the agent: `agent`)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from fedstudy.errors import RefusedError


class Role(StrEnum):
    """What a certificate's holder is."""

    SITE = "site"
    INVITATION = "invitation"
    AGGREGATOR = "aggregator"
    OPERATOR = "operator"
    AGENT = "agent"
    TRAINER = "trainer"


_STUDY = re.compile(
    r"spiffe://([a-z0-9.\-]{1,255})/study/([A-Za-z0-9\-]{1,63})/(site|invitation|aggregator|operator)(?:/([a-z0-9]([a-z0-9\-]{0,61}[a-z0-9])?))?"
)
_PARTICIPANT = re.compile(
    r"spiffe://([a-z0-9.\-]{1,255})/participant/([A-Za-z0-9\-]{1,63})/(agent|trainer|operator)"
)


@dataclass(frozen=True)
class Identity:
    """A name out of a certificate.

    Attributes:
        trust_domain: the authority under which the name holds.
        scope: `study` or `participant`.
        uid: the study's or participant's identity.
        role: what the holder is.
        name: the site's name or the invitation's id; empty for the other roles.
    """

    trust_domain: str
    scope: str
    uid: str
    role: Role
    name: str = ""

    def uri(self) -> str:
        """The URI that stands in the certificate."""
        tail = f"/{self.name}" if self.name else ""
        return f"spiffe://{self.trust_domain}/{self.scope}/{self.uid}/{self.role.value}{tail}"

    @classmethod
    def parse(cls, uri: str) -> Identity:
        """The identity that a URI states.

        Raises:
            RefusedError: the URI is none of the known forms.
        """
        if match := _STUDY.fullmatch(uri):
            domain, uid, role, name = match[1], match[2], Role(match[3]), match[4] or ""
            if (role in (Role.SITE, Role.INVITATION)) == bool(name):
                return cls(domain, "study", uid, role, name)
        elif match := _PARTICIPANT.fullmatch(uri):
            return cls(match[1], "participant", match[2], Role(match[3]))
        raise RefusedError(f"The certificate names {uri!r}, which is no identity of fedstudy.")
