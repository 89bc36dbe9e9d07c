"""A site's certificate is renewed long before it ends, and nothing that is under way notices."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fedstudy.agent import upstream
from fedstudy.agent.enrolment import SiteCertificate
from fedstudy.agent.ledger import entries
from fedstudy.errors import RefusedError
from fedstudy.identity import Identity, Role
from fedstudy.wire.credentials import certificate_facts
from fedstudy_operator.pki import sign_csr

World = Any  # tests/agent/conftest.py

MOSTLY_SPENT = 200 / 86400
"""Days: with the five minutes by which certificates are dated back, 0.6 of such a life is over when it is signed."""


def present(world: World) -> str:
    certificate: str = (world.settings.state / "identity" / "tls.crt").read_text()
    return certificate


def spent(certificate: str) -> float:
    return certificate_facts(certificate).spent(datetime.now(UTC))


async def test_the_stream_and_the_work_at_hand_go_on(world: World) -> None:
    world.hub.days = MOSTLY_SPENT
    async with world.agent():
        await world.operator.configure()
        named = world.hub.give_training()
        await world.until(lambda: world.hub.renewals)
        await world.until(lambda: spent(present(world)) < 0.5, "the new certificate is kept")
        new = certificate_facts(present(world))
        await world.shows(certificate_fingerprint=new.fingerprint, connected=True)
        assert world.state.certificate_not_after == new.not_after.isoformat()
        async with world.trainer.following(world.plan_of()) as got:
            await world.trainer.answer(await got.get(), world.update, samples=3)
        await world.until(lambda: named in world.hub.answers)
        assert len(world.hub.follows) == 1  # one stream from first to last
        assert world.hub.renewals == world.hub.requests  # the same key
        assert [entry.what for entry in entries(world.ledger)].count("enrolment") == 2
        await world.hub.stop()
        await world.hub.start()
        await world.until(lambda: len(world.hub.follows) == 2)
        assert certificate_facts(world.hub.callers[-1]).fingerprint == new.fingerprint


async def test_a_certificate_that_is_not_due_is_left_alone(world: World) -> None:
    async with world.agent():
        await world.operator.configure()
        await world.shows(connected=True)
        assert not world.hub.renewals


async def test_a_refused_renewal_ends_nothing_and_is_asked_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "RENEW_SECONDS", 0.05)
    world.hub.days = MOSTLY_SPENT
    async with world.agent():
        await world.operator.configure()
        await world.shows(connected=True)
    world.hub.refuses = RefusedError("Not now.")
    world.hub.renewals.clear()
    old = spent_certificate(world)
    async with world.agent():
        await world.until(lambda: len(world.hub.renewals) >= 3)
        await world.shows(connected=True)
        assert present(world) == old
        world.hub.refuses = None
        await world.until(lambda: present(world) != old)
        await world.shows(connected=True)


def spent_certificate(world: World) -> str:
    """Give the site one that is due."""
    held = SiteCertificate(world.settings.state / "identity", site="hospital-a")
    identity = Identity("test.example", "study", "u-1", Role.SITE, "hospital-a")
    signed = sign_csr(world.hub.authority, held.request(), identity=identity, days=MOSTLY_SPENT)
    held.keep(signed, world.hub.authority.certificate_pem)
    return signed
