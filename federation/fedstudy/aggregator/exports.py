"""The way of a study's results out of the aggregator's volume: whole files to its operator, from any offset on."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fedstudy.aggregator import report
from fedstudy.aggregator.engine import Engine
from fedstudy.errors import ManifestError, StudyFailedError
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.framing import chunk_frame
from fedstudy.wire.transfer import CHUNK, serve_fetch

RESULTS, HISTORY, MODEL = "results.json", "history.db", "model.safetensors"
FILES = (RESULTS, HISTORY, MODEL)


async def serve(engine: Engine, request: pb.ExportRequest, context: Any) -> AsyncIterator[Any]:
    """The chunks of one file.

    Raises:
        ManifestError: there is no file of that name.
        StudyFailedError: the study has no model yet.
    """
    if request.name == MODEL:
        model = engine.state.model
        if model is None:
            raise StudyFailedError("The study has no model yet.", "Wait for its first round.")
        wanted = pb.FetchRequest(digest=model.digest, offset=request.offset)
        async for frame in serve_fetch(engine.blobs, wanted, context):
            yield frame
    elif request.name in FILES:
        content = await asyncio.to_thread(_document, engine.folder, request.name)
        for begin in range(request.offset, len(content), CHUNK):
            yield chunk_frame(content[begin : begin + CHUNK])
    else:
        raise ManifestError(f"There is no file {request.name[:64]!r}.", f"Ask for one of {', '.join(FILES)}.")


def _document(state_folder: Path, name: str) -> bytes:
    if name == RESULTS:
        return report.collect(state_folder).model_dump_json(by_alias=True, indent=1).encode()
    with tempfile.TemporaryDirectory(dir=state_folder) as folder:
        return report.history(state_folder, Path(folder)).read_bytes()
