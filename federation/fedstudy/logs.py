"""Logs: one JSON object a line on standard error, so that a person can read them and a machine can search them."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class _JSONLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process


def configure(process: str, level: int = logging.INFO, *, file: Path | None = None) -> None:
    """Send the root logger to standard error, or to a file, as JSON lines.

    Args:
        process: what stands in each line, for example `agent/hospital-a`.
        file: where to add lines instead; its folder is made.
    """
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(file, encoding="utf-8") if file else logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JSONLines(process))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def log(logger: logging.Logger, level: int, event: str, **fields: Any) -> None:
    """Log an event with fields of its own."""
    logger.log(level, event, extra={"fields": fields})
