"""An operator that is newer than the definitions in its cluster: a status is written without the fields that they do not have yet.

The API server refuses the whole of a server-side apply for one field that the schema lacks, with an answer (500) that no retry mends;
a study would get no status at all until somebody upgrades the CustomResourceDefinition.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from fedstudy.logs import log
from fedstudy_operator.cluster import Object

_logger = logging.getLogger(__name__)
_UNDECLARED = re.compile(r"\.status((?:\.[A-Za-z0-9]+)+): field not declared in schema")

Path = tuple[str, ...]


class Undeclared:
    """The status fields that the cluster's definitions are known to lack, by kind. They are learnt from refusals, and for this process only."""

    def __init__(self) -> None:
        self._paths: dict[str, set[Path]] = {}

    def learn(self, kind: str, refusal: str) -> bool:
        """Take in what a refusal says; whether it told of a field that was not known to be lacking."""
        found = {tuple(match.split(".")[1:]) for match in _UNDECLARED.findall(refusal)}
        new = found - self._paths.setdefault(kind, set())
        for path in sorted(new):
            log(
                _logger,
                logging.WARNING,
                "StatusFieldNotDeclared",
                kind=kind,
                field=".".join(("status", *path)),
                remedy="Upgrade the CustomResourceDefinition to that of this operator.",
            )
        self._paths[kind] |= new
        return bool(new)

    def without(self, kind: str, status: Object) -> Object:
        """The status without what the definition lacks."""
        for path in self._paths.get(kind, ()):
            status = _without(status, path)
        return status


def _without(obj: Object, path: Sequence[str]) -> Object:
    """A copy of an object without one field; itself where the field is not there."""
    name, rest = path[0], path[1:]
    if name not in obj:
        return obj
    inner: Any = obj[name]
    if not rest:
        return {key: value for key, value in obj.items() if key != name}
    return {**obj, name: _without(inner, rest)} if isinstance(inner, dict) else obj
