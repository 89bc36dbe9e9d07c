"""Bare sites: they speak Federation as an agent does, and their training adds a constant. Several may share a process.

Where a site has an agent, this is its trainer, and the operator that tells the agent to take part.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
from benchmarks.wire import workload
from benchmarks.wire.deploy import PURPOSE, agent_folder
from benchmarks.wire.deploy import site as site_name

from fedstudy.aggregator.blocks import blocks, layout, write_blocks
from fedstudy.errors import FedstudyError
from fedstudy.measures import classification_statistics, cohort_statistics
from fedstudy.tensors import CONSTANT_PREFIX, Array, Blob, TensorFile
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.admin import Approval, Configure, DatasetPolicy
from fedstudy.wire.blobs import BlobStore
from fedstudy.wire.channel import TLSFiles, open_channel
from fedstudy.wire.federation_pb2_grpc import AdminStub, FederationStub
from fedstudy.wire.transfer import fetch, submit

PATIENCE = 3600.0
CLASSES = 2


class Site:
    """One site: a channel, a store, and what it does with each kind of instruction."""

    def __init__(self, number: int, folder: Path, port: int, size: int) -> None:
        self.number, self.size = number, size
        self.name = site_name(number)
        self.scratch = folder / "sites" / self.name
        self.scratch.mkdir(parents=True)
        self.store = BlobStore(self.scratch / "blobs", durable=False)
        self.agent = agent_folder(folder, self.name)
        if self.agent.exists():
            self.channel = self._to_agent("trainer")
        else:
            tls = TLSFiles.from_folder(folder / "tls" / self.name)
            self.channel = open_channel(f"127.0.0.1:{port}", tls, server_name="aggregator")
        self.stub = FederationStub(self.channel)

    def _to_agent(self, role: str) -> grpc.aio.Channel:
        target = f"127.0.0.1:{(self.agent / 'port').read_text()}"
        return open_channel(target, TLSFiles.from_folder(self.agent / role), server_name="agent")

    async def _consent(self) -> None:
        """Have the agent take part in whatever is offered."""
        policy = DatasetPolicy(
            purposes=[PURPOSE],
            algorithms=["*"],
            networks=["*"],
            min_sites=1,
            require_secure_aggregation=False,
        )
        wishes = Configure(approval=Approval(mode="Automatic"), policy=policy)
        async with self._to_agent("operator") as channel:
            request = pb.DecideRequest(document=wishes.model_dump_json(by_alias=True).encode())
            await AdminStub(channel).Decide(request, wait_for_ready=True, timeout=PATIENCE)

    async def run(self) -> None:
        """Follow instructions until the study is over."""
        if self.agent.exists():
            await self._consent()
        async with self.channel:
            offer = await self.stub.Offer(pb.OfferRequest(), wait_for_ready=True, timeout=PATIENCE)
            async for instruction in self.stub.Follow(pb.FollowRequest(plan_digest=offer.digest)):
                if instruction.kind == pb.FINISH:
                    return
                if instruction.kind != pb.CANCEL:
                    await self.obey(instruction)

    async def obey(self, instruction: pb.Instruction) -> None:
        """Fetch, work, submit; then only the statistics are kept."""
        inputs = {i.name: Blob(i.digest, i.size) for i in instruction.inputs}
        for blob in inputs.values():
            await fetch(self.stub, blob, self.store, timeout=PATIENCE)
        answer = await asyncio.to_thread(self.answer, instruction.id, instruction.kind, inputs)
        said = pb.Contribution(samples=workload.samples(self.number), steps=1, seconds=1.0, loss=0.5)
        await submit(self.stub, instruction.id, answer, self.store, said, timeout=PATIENCE)
        for digest in self.store.digests() - {
            blob.digest for name, blob in inputs.items() if name != "model"
        }:
            self.store.delete(digest)

    def answer(self, instruction: str, kind: int, inputs: dict[str, Blob]) -> Blob:
        """A tensor file in the store."""
        metadata = {"instruction": instruction, "kind": pb.Kind.Name(kind)}
        labels = np.arange(4) % CLASSES
        if kind == pb.STATISTICS:
            return self.store.add_tensors(cohort_statistics(np.ones((4, 2)), labels, CLASSES), metadata)
        if kind == pb.EVALUATE:
            return self.store.add_tensors(
                classification_statistics(np.full((4, CLASSES), 0.5), labels), metadata
            )
        out = self.scratch / hashlib.sha256(instruction.encode()).hexdigest()
        if kind == pb.INITIALISE:
            return self.store.add_file(out, self._initialise(out, metadata))
        return self.store.add_file(out, self._train(self.store.path(inputs["model"].digest), out, metadata))

    def _initialise(self, out: Path, metadata: dict[str, str]) -> Blob:
        shape = {name: ("F32", dims) for name, dims in workload.layers(self.size)}
        shape |= {f"{CONSTANT_PREFIX}covariate.{what}": ("F32", (2,)) for what in ("mean", "scale")}
        starts = workload.starts(self.size)

        def fill(name: str) -> Iterator[Array]:
            if name in starts:
                yield from workload.initial(starts[name], math.prod(shape[name][1]))
            else:
                yield np.ones(2, dtype=np.float32)

        return write_blocks(out, shape, fill, metadata, durable=False)

    def _train(self, model: Path, out: Path, metadata: dict[str, str]) -> Blob:
        constant = workload.constant(self.number)
        with TensorFile(model) as w:
            shape = {n: entry for n, entry in layout(w).items() if not n.startswith(CONSTANT_PREFIX)}

            def fill(name: str) -> Iterator[Array]:
                for block in blocks(w, name):
                    block += constant
                    yield block

            self.store.lend(out, w.size)
            return write_blocks(out, shape, fill, metadata, durable=False)


async def main(first: int, last: int) -> None:
    """Run the sites first..last."""
    folder, size = Path(os.environ["BENCH_FOLDER"]), int(os.environ["BENCH_SIZE"])
    while not (folder / "port").exists():  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.02)
    port = int((folder / "port").read_text())
    async with asyncio.TaskGroup() as group:
        for number in range(first, last + 1):
            group.create_task(Site(number, folder, port, size).run())


if __name__ == "__main__":
    try:
        asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
    except* FedstudyError as errors:
        sys.exit(str(errors.exceptions))
