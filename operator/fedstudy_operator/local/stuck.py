"""Processes that do not come up however often they are tried, and the error that stands for it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from fedstudy.errors import FedstudyError, PortInUseError, StudyFailedError
from fedstudy_operator.cluster import Object
from fedstudy_operator.reconcile.causes import last_words, terminated

_TRIES = 3
_BY_CODE = {kind.exit_code: kind for kind in FedstudyError.__subclasses__()}


def stuck(pods: Iterable[Object]) -> tuple[str, type[FedstudyError]] | None:
    """What keeps one of the pods from running: in words, and as an error; None where nothing does.

    A port that is taken counts at once, an end with a failure when it has happened three times.
    """
    for pod in pods:
        status = ((pod.get("status") or {}).get("containerStatuses") or [{}])[0]
        waiting = (status.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") == "PortInUse":
            return f"{waiting['message']}.", PortInUseError
        ended = terminated(pod)
        if waiting.get("reason") == "CrashLoopBackOff" and status.get("restartCount", 0) >= _TRIES:
            code = int(ended.get("exitCode", 1))
            name = pod["spec"]["containers"][0]["name"]
            words = last_words(str(ended.get("message", ""))) or "it said nothing"
            text = f"the {name} has ended {status['restartCount']} times, last with exit code {code}: {words}"
            return text, _BY_CODE.get(code, StudyFailedError)
    return None
