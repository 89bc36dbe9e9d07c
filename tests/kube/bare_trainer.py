"""A trainer without torch, in the place of `fedstudy-trainer`: what it answers depends on its site and the instruction alone.

python -m bare_trainer run|preflight        # with the environment of a trainer's container
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "crash"))

from study import answer_of, fakes, persist

from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.admin import DatasetProfile
from fedstudy.wire.blobs import BlobStore
from fedstudy.wire.channel import TLSFiles, open_channel
from fedstudy.wire.federation_pb2_grpc import FederationStub
from fedstudy.wire.transfer import submit


async def check(stub: FederationStub, digest: str) -> None:
    """The preflight: the data fit."""
    profile = DatasetProfile(plan_digest=digest, fits=True, cases=70, training=50, validation=10, test=10)
    document = profile.model_dump_json(by_alias=True).encode()
    await stub.Report(pb.ReportRequest(preflight=pb.Preflight(profile=document)))


async def train(stub: FederationStub, digest: str, *, once: bool) -> None:
    """Answer instructions until the study is over, or only the first."""
    site, store = os.environ["FEDSTUDY_SITE"], BlobStore(Path(os.environ["FEDSTUDY_SCRATCH"]))
    async for one in stub.Follow(pb.FollowRequest(plan_digest=digest)):
        if one.kind == pb.FINISH:
            return
        if one.kind == pb.CANCEL:
            continue
        answer = await answer_of(stub, site, one, store)
        said = pb.Contribution(samples=fakes.SAMPLES[site], steps=5, seconds=1, loss=0.4)
        await submit(stub, one.id, answer, store, said, timeout=20)
        if once:
            return
    raise SystemExit("The stream ended.")


async def main(action: str) -> None:
    """Do what the container is for."""
    files = TLSFiles.from_folder(Path(os.environ["FEDSTUDY_TLS"]))
    name = os.environ["FEDSTUDY_UPSTREAM_NAME"]
    async with open_channel(os.environ["FEDSTUDY_UPSTREAM"], files, server_name=name) as channel:
        stub = FederationStub(channel)

        async def offer() -> pb.OfferReply:
            return await stub.Offer(pb.OfferRequest(), wait_for_ready=True)

        digest = (await persist(offer)).digest
        if action == "preflight":
            await check(stub, digest)
        else:
            await train(stub, digest, once=os.environ["FEDSTUDY_RELEASE"] == "BetweenRounds")


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1]))
    except grpc.aio.AioRpcError as error:
        raise SystemExit(f"{error.code().name}: {error.details()}") from error
