"""Watches of our own children, leaner than kopf's: a kind has thousands of objects, and a list after a gap tells what ended in it.

kopf costs a task and some 20 KB for each object at start, and after a gap (410) never tells of what was deleted in it. It watches the
custom resources, of which there are few; this module watches what the operator made of them, by label.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from sys import intern

from fedstudy.logs import log
from fedstudy_operator.children.common import COMPONENT, PARTICIPANT, STUDY
from fedstudy_operator.cluster import ForbiddenError, InvalidObjectError, NotFoundError, Object
from fedstudy_operator.kube.api import Api, UnavailableError
from fedstudy_operator.kube.client import PAGE
from fedstudy_operator.kube.kinds import KINDS

_logger = logging.getLogger(__name__)

Handler = Callable[[Object, bool], Awaitable[None]]
"""Told of an object and whether it is gone."""

_SILENCE_SECONDS = 90.0
"""The API server sends a bookmark each minute: a stream that says nothing for longer is dead."""
_STREAM_SECONDS = 300
_LONGEST_WAIT = 10.0
_LABELS = (STUDY, PARTICIPANT, COMPONENT)
Name = tuple[str, str, str]
"""Namespace, name and uid."""
Owner = tuple[str, ...]
"""The values of _LABELS; empty where one is not there. Each text is in memory once: a study's name is its children's label too."""


class GoneError(Exception):
    """The API server does not remember the version from which we want to watch: list anew."""


class Informer:
    """One kind in one namespace, or in all.

    Args:
        api: how to ask.
        kind: what.
        namespace: where; None: everywhere.
        selector: labels of the objects to be told of.
        handle: told of all that is there, then of each change.
        restarted: called whenever a stream broke.
        clock: monotonic seconds.
        listing: held for each page, so that several kinds are not in memory at the same time.
    """

    def __init__(
        self,
        api: Api,
        kind: str,
        namespace: str | None,
        selector: str,
        handle: Handler,
        *,
        restarted: Callable[[str], None] = lambda kind: None,
        clock: Callable[[], float] = time.monotonic,
        listing: asyncio.Lock | None = None,
    ) -> None:
        self.kind = kind
        self._listing = listing or asyncio.Lock()
        self.listed = asyncio.Event()
        self._api = api
        self._path = KINDS[kind].path(namespace)
        self._selector = selector
        self._handle = handle
        self._restarted = restarted
        self._clock = clock
        self._known: dict[Name, Owner] = {}
        """What is there, with the labels that say whose it is."""
        self._version = ""
        self._wait = 0.0
        """After the last failure; nothing since something was heard."""
        self.heard = clock()
        """When the API server said something of this kind last."""

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except GoneError:
                self._version = ""
                self._restarted(self.kind)
            except (UnavailableError, ForbiddenError, NotFoundError, InvalidObjectError) as error:
                self._wait = wait = min(_LONGEST_WAIT, max(0.5, self._wait * 2))
                self._restarted(self.kind)
                log(_logger, logging.WARNING, "WatchBroken", kind=self.kind, error=str(error), again_in=wait)
                await asyncio.sleep(wait * (0.5 + random.random() / 2))

    async def _list(self) -> None:
        """Tell of all that is there, and of what is there no more."""
        query = {"labelSelector": self._selector, "limit": str(PAGE)}
        there: dict[Name, Owner] = {}
        more = version = ""
        while more or not version:
            async with self._listing:
                more, version = await self._page(query | ({"continue": more} if more else {}), there)
        for ended in [name for name in self._known if name not in there]:
            namespace, name, uid = ended
            labels = {label: value for label, value in zip(_LABELS, self._known[ended], strict=True) if value}
            metadata = {"namespace": namespace, "name": name, "uid": uid, "labels": labels}
            await self._tell({"metadata": metadata}, gone=True)
        self._known = there
        self._version = version
        self.listed.set()

    async def _page(self, query: dict[str, str], there: dict[Name, Owner]) -> tuple[str, str]:
        """Tell of a page of a list, and note what is there; returns where it goes on, if it does, and its version."""
        page = await self._api.request("GET", self._path, query=query)
        self.heard, self._wait = self._clock(), 0.0
        for obj in page.get("items") or []:
            there[_name(obj)] = _owner(obj)
            await self._tell(obj, gone=False)
        return page["metadata"].get("continue") or "", page["metadata"]["resourceVersion"]

    async def _watch(self) -> None:
        query = {
            "labelSelector": self._selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(int(_STREAM_SECONDS * (1 + random.random()))),
        }
        async with aclosing(self._api.stream(self._path, query=query, silence=_SILENCE_SECONDS)) as lines:
            async for line in lines:
                self.heard, self._wait = self._clock(), 0.0
                await self._happened(json.loads(line))

    async def _happened(self, event: Object) -> None:
        obj = event["object"]
        if event["type"] == "ERROR":
            if obj.get("code") == 410:
                raise GoneError(obj.get("message", ""))
            raise UnavailableError(f"watch of {self.kind}: {obj.get('message')}")
        self._version = obj["metadata"]["resourceVersion"]
        if event["type"] == "BOOKMARK":
            return
        gone = event["type"] == "DELETED"
        if gone:
            self._known.pop(_name(obj), None)
        else:
            self._known[_name(obj)] = _owner(obj)
        await self._tell(obj, gone=gone)

    async def _tell(self, obj: Object, *, gone: bool) -> None:
        obj.setdefault("kind", self.kind)
        obj.setdefault("apiVersion", KINDS[self.kind].api_version)
        await self._handle(obj, gone)


class Informers:
    """All kinds of children, wherever the operator works.

    Args:
        api: how to ask.
        kinds: of the children.
        namespaces: where; empty: everywhere.
        selector: labels.
        handle: told of everything.
        restarted: called whenever a stream broke.
    """

    def __init__(
        self,
        api: Api,
        kinds: Sequence[str],
        namespaces: Sequence[str],
        selector: str,
        handle: Handler,
        *,
        restarted: Callable[[str], None] = lambda kind: None,
    ) -> None:
        listing = asyncio.Lock()
        self._all = [
            Informer(api, kind, namespace, selector, handle, restarted=restarted, listing=listing)
            for kind in kinds
            for namespace in (namespaces or (None,))
        ]

    async def run(self) -> None:
        """Tell until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self._all:
                group.create_task(informer.run(), name=f"watch {informer.kind}")

    async def listed(self) -> None:
        """Wait until all that was there has been told."""
        await asyncio.gather(*(informer.listed.wait() for informer in self._all))

    def silent(self, seconds: float) -> str:
        """A kind of which nothing has been heard for so long; empty where there is none."""
        now = time.monotonic()
        return next((one.kind for one in self._all if now - one.heard > seconds), "")


def _name(obj: Object) -> Name:
    metadata = obj["metadata"]
    metadata["namespace"], metadata["name"] = intern(metadata["namespace"]), intern(metadata["name"])
    return metadata["namespace"], metadata["name"], metadata["uid"]


def _owner(obj: Object) -> Owner:
    labels = obj["metadata"].get("labels") or {}
    return tuple(intern(labels.get(label, "")) for label in _LABELS)
