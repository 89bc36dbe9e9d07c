"""The preflight: opens a dataset under the offered plan and says in plain words what does not fit."""

from __future__ import annotations

import logging

import grpc

from fedstudy.errors import DataError
from fedstudy.logs import log
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.admin import DatasetProfile
from fedstudy.wire.status import from_rpc_error
from fedstudy_trainer.connection import connected, offered_plan
from fedstudy_trainer.data.config import load_config
from fedstudy_trainer.data.preflight import preflight as examine
from fedstudy_trainer.reporting import failure, report
from fedstudy_trainer.settings import Settings
from fedstudy_trainer.threads import in_thread

_log = logging.getLogger(__name__)


async def preflight(settings: Settings) -> None:
    """Check the dataset and report its profile to the agent, where it stays.

    Raises:
        ConnectionLostError: the agent is not there.
        DataError: the dataset does not fit; each fault has been logged on a line of its own.
    """
    async with connected(settings) as stub:
        plan, digest = await offered_plan(stub, settings)
        log(_log, logging.INFO, "preflight", study=plan.study, digest=digest)
        try:
            config = load_config(settings.config)
            profile = await in_thread(lambda: examine(config, settings.data, plan))
        except Exception as error:
            await report(stub, failure("", error))
            raise
        document = profile.model_dump_json(by_alias=True).encode()
        try:
            await stub.Report(pb.ReportRequest(preflight=pb.Preflight(profile=document)), timeout=60)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        _refuse_misfit(profile)


def _refuse_misfit(profile: DatasetProfile) -> None:
    for warning in profile.warnings:
        log(_log, logging.WARNING, warning)
    for fault in profile.faults:
        log(_log, logging.ERROR, fault)
    if not profile.fits:
        first = profile.faults[0] if profile.faults else "it has too few cases"
        more = f" (and {len(profile.faults) - 1} more)" if len(profile.faults) > 1 else ""
        raise DataError(
            f"The dataset does not fit the plan: {first}{more}", "Correct the data or its description."
        )
