"""Leader election: one replica holds a Lease and works, the others stand by.

A holder that could not renew in time knows so by its own monotonic clock before anybody else may take over, and writes nothing
more: a process that was frozen and thawed finds its deadline passed. Clocks of different machines are never compared; a candidate
waits a whole duration from the moment in which it saw the Lease change last.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from fedstudy.logs import log
from fedstudy_operator.cluster import ConflictError, ForbiddenError, Key, NotFoundError, Object
from fedstudy_operator.kube.api import Api, UnavailableError
from fedstudy_operator.kube.kinds import KINDS, path_of

_logger = logging.getLogger(__name__)

DURATION_SECONDS = 15
"""How long a Lease holds that nobody renews."""
DEADLINE_SECONDS = 10.0
"""After so long without a renewal the holder gives up, before its Lease has run out for the others."""
RETRY_SECONDS = 2.0
_REQUEST_SECONDS = 1.5
"""Shorter than the retry, so that a hung request is given up in time for the next."""


@dataclass(frozen=True)
class _Sight:
    """A Lease as a candidate saw it, and when (monotonic)."""

    version: str
    at: float


class Elector:
    """One replica's part in the election.

    Args:
        api: how to ask; used for the Lease only.
        lease: the Lease's key.
        identity: our name in it; two replicas never share one.
        clock: monotonic seconds.
    """

    def __init__(
        self, api: Api, lease: Key, identity: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = api
        self._lease = lease
        self._identity = identity
        self._clock = clock
        self._renewed: float | None = None
        self._seen: _Sight | None = None
        self._heard: float | None = None
        self._mine: Object | None = None
        """The Lease as our last write made it: it is renewed without being read before."""

    @property
    def heard(self) -> bool:
        """Whether the API server has answered about the Lease within its duration: a standby that could take over."""
        return self._heard is not None and self._clock() - self._heard < DURATION_SECONDS

    @property
    def leads(self) -> bool:
        """Whether we hold the Lease now, renewed within the deadline: the fence before every write."""
        return self._renewed is not None and self._clock() - self._renewed < DEADLINE_SECONDS

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        while not await self._try():  # noqa: ASYNC110 - the API server has no event for a Lease that runs out
            await asyncio.sleep(RETRY_SECONDS)
        log(_logger, logging.INFO, "Leading", lease=str(self._lease), identity=self._identity)

    async def keep(self) -> None:
        """Renew until the Lease is lost; returns then."""
        while self.leads:
            await asyncio.sleep(RETRY_SECONDS)
            if not self.leads:
                break
            if not await self._try() and self._renewed is None:
                break
        self._renewed = None
        log(_logger, logging.ERROR, "LeaseLost", lease=str(self._lease), identity=self._identity)

    async def release(self) -> None:
        """Give the Lease back, so that another replica need not wait for its end."""
        if not self.leads:
            return
        self._renewed = None
        try:
            lease = await self._read()
            if lease and lease["spec"].get("holderIdentity") == self._identity:
                await self._write(lease, holder="")
        except (ConflictError, NotFoundError, ForbiddenError, UnavailableError) as error:
            log(_logger, logging.WARNING, "LeaseNotReleased", error=str(error))

    async def _try(self) -> bool:
        """Take or renew the Lease, if that is allowed now; whether it is ours."""
        started = self._clock()
        try:
            lease = self._mine or await self._read()
            self._heard = started
            if lease is None:
                self._mine = await self._create()
            elif self._may_take(lease):
                self._mine = await self._write(lease, holder=self._identity)
            else:
                self._renewed = None
                return False
        except ConflictError:
            self._mine = None  # another has written it; seen at the next look
            return False
        except (ForbiddenError, UnavailableError, NotFoundError) as error:
            self._mine = None
            log(_logger, logging.WARNING, "LeaseNotRenewed", lease=str(self._lease), error=str(error))
            return False
        self._renewed = started  # counted from before the request: the server may have taken it at once
        return True

    def _may_take(self, lease: Object) -> bool:
        holder = lease["spec"].get("holderIdentity") or ""
        if holder in ("", self._identity):
            return True
        version = lease["metadata"]["resourceVersion"]
        if self._seen is None or self._seen.version != version:
            self._seen = _Sight(version, self._clock())
            return False
        duration = lease["spec"].get("leaseDurationSeconds") or DURATION_SECONDS
        return self._clock() - self._seen.at >= duration

    async def _read(self) -> Object | None:
        try:
            return await self._api.request("GET", path_of(self._lease), seconds=_REQUEST_SECONDS)
        except NotFoundError:
            return None

    async def _create(self) -> Object:
        body: Object = {
            "apiVersion": KINDS["Lease"].api_version,
            "kind": "Lease",
            "metadata": {"name": self._lease.name, "namespace": self._lease.namespace},
            "spec": self._spec(self._identity, 0),
        }
        path = KINDS["Lease"].path(self._lease.namespace)
        return await self._api.request("POST", path, body=body, seconds=_REQUEST_SECONDS)

    async def _write(self, lease: Object, *, holder: str) -> Object:
        """Replace what was read; the API server refuses it where another has written in between."""
        changes = int(lease["spec"].get("leaseTransitions") or 0)
        if lease["spec"].get("holderIdentity") != holder:
            changes += 1
        spec = self._spec(holder, changes)
        if lease["spec"].get("holderIdentity") == holder and lease["spec"].get("acquireTime"):
            spec["acquireTime"] = lease["spec"]["acquireTime"]
        body = {**lease, "spec": spec}
        return await self._api.request("PUT", path_of(self._lease), body=body, seconds=_REQUEST_SECONDS)

    def _spec(self, holder: str, changes: int) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": holder,
            "leaseDurationSeconds": DURATION_SECONDS,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": changes,
        }
