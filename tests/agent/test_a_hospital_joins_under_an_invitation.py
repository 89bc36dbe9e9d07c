"""Enrolment, and the typed reasons for which a hospital is not connected."""

from __future__ import annotations

import stat
from typing import Any

import pytest

from fedstudy.agent.ledger import entries
from fedstudy.errors import RefusedError
from fedstudy.identity import Identity, Role
from fedstudy.tensors import Blob
from fedstudy_operator.pki import issue, make_authority

World = Any  # tests/agent/conftest.py


async def test_it_waits_for_the_hubs_acceptance_and_then_has_a_certificate(world: World) -> None:
    world.hub.accepts = False
    async with world.agent():
        await world.shows(reason="PendingHubAcceptance", enrolled=False)
        world.hub.accepts = True
        await world.shows(enrolled=True, reason="WaitingForApproval")
        assert len(world.state.certificate_fingerprint) == 64
        assert world.state.certificate_not_after
    key = world.settings.state / "identity" / "tls.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    request = world.hub.requests[0]
    assert "PRIVATE" not in request
    (enrolment,) = entries(world.ledger)
    assert enrolment.digest == Blob.of(request.encode()).digest


async def test_the_same_key_is_asked_for_after_a_restart(world: World) -> None:
    world.hub.accepts = False
    for _ in range(2):
        async with world.agent():
            await world.shows(reason="PendingHubAcceptance")
            await world.until(lambda: world.hub.requests)
    assert len(set(world.hub.requests)) == 1
    assert len(list(entries(world.ledger))) == 1


async def test_a_refused_invitation_is_shown_and_asked_again(world: World) -> None:
    world.hub.refuses = RefusedError("The invitation was withdrawn.", "Ask for another.")
    async with world.agent():
        await world.shows(reason="InvitationRefused")
        assert "withdrawn" in world.state.message
        world.hub.refuses = None
        await world.shows(enrolled=True)


async def test_a_certificate_for_another_site_is_not_taken(world: World) -> None:
    object.__setattr__(world.settings, "site", "hospital-b")
    async with world.agent():
        await world.shows(reason="InvitationRefused", enrolled=False)
        assert "hospital-a" in world.state.message


async def test_a_hub_that_is_away_is_tried_again_for_ever(world: World) -> None:
    await world.hub.stop()
    async with world.agent():
        await world.shows(reason="DialFailed")
        assert world.state.message
        await world.hub.start()
        await world.shows(enrolled=True)


@pytest.mark.parametrize("missing", ["tls.crt", "ca.crt"])
async def test_an_invitation_that_comes_late_is_waited_for(world: World, missing: str) -> None:
    kept = (world.settings.invitation / missing).rename(world.folder / "kept")
    async with world.agent():
        await world.shows(reason="DialFailed")
        assert missing in world.state.message
        kept.rename(world.settings.invitation / missing)
        await world.shows(enrolled=True)


async def test_an_expired_invitation_says_so(world: World) -> None:
    identity = Identity("test.example", "study", "u-1", Role.INVITATION, "for-hospital-a")
    old = issue(world.hub.authority, identity=identity, dns_names=[], days=-1, server=False, client=True)
    (world.settings.invitation / "tls.crt").write_text(old.certificate_pem)
    (world.settings.invitation / "tls.key").write_text(old.key_pem)
    async with world.agent():
        await world.shows(reason="CertificateExpired")
        assert "invitation" in world.state.message


async def test_an_expired_site_certificate_says_so(world: World) -> None:
    async with world.agent():
        await world.shows(enrolled=True)
    identity = Identity("test.example", "study", "u-1", Role.SITE, "hospital-a")
    old = issue(world.hub.authority, identity=identity, dns_names=[], days=-1, server=False, client=True)
    (world.settings.state / "identity" / "tls.crt").write_text(old.certificate_pem)
    async with world.agent():
        await world.shows(reason="CertificateExpired", enrolled=True)


async def test_a_revoked_site_is_shown_as_revoked_until_it_is_invited_again(world: World) -> None:
    async with world.agent():
        await world.operator.configure()
        await world.shows(connected=True)
        world.hub.revoked = True
        await world.hub.stop()
        await world.hub.start()
        await world.shows(connected=False, reason="Revoked")
        world.hub.revoked = False
        await world.shows(connected=True, reason="")


async def test_a_hub_of_another_authority_is_not_talked_to(world: World) -> None:
    (world.settings.invitation / "ca.crt").write_text(make_authority("another", 1).certificate_pem)
    async with world.agent():
        await world.shows(reason="DialFailed")
        assert "certificate" in world.state.message.lower()
    assert world.hub.requests == []


async def test_two_agents_never_share_a_state(world: World) -> None:
    async with world.agent():
        with pytest.raises(RefusedError, match="Another agent"):
            async with world.agent():
                pass
