"""Kills the aggregator and the agents of small studies at random instants, and checks that the final bits are the same.

    python -m benchmarks.crash_random [--kills 200] [--seed 1]

Two hospitals, each with a real agent process; trainers without torch, in this process; mutual TLS everywhere. A kill is
SIGKILL, either after a random time or at a random durable moment of the process (before or after it).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "crash"))

from mortal import Kill, Living, Nursery, nursery
from study import Study, fakes, free_port, load_helpers, persist

from fedstudy.identity import Identity, Role
from fedstudy.wire.channel import TLSFiles, open_channel
from fedstudy_operator.pki import make_authority

hospital_helpers = load_helpers("agent")
SITES = ("hospital-a", "hospital-b")
ROUNDS = 10
MOMENTS = 80
PAUSES = (0.1, 1.2)


class Dice:
    """How many kills are left, and when the next one is."""

    def __init__(self, kills: int, seed: int) -> None:
        self.random, self.goal, self.kills = random.Random(seed), kills, 0

    @property
    def left(self) -> bool:
        """Whether there are to be more."""
        return self.kills < self.goal

    def kill(self) -> Kill:
        """What a process that starts now is to do to itself."""
        if not self.left or self.random.random() < 0.5:
            return Kill()
        return Kill(self.random.randint(1, MOMENTS), self.random.random() < 0.5)


class Undying:
    """A process that is started again whenever it was killed."""

    def __init__(self, born: Nursery, environment: dict[str, str], dice: Dice) -> None:
        self._born, self._environment, self._dice = born, environment, dice
        self.living: Living | None = None

    async def run(self) -> None:
        """Until cancelled; then it is stopped in order."""
        while True:
            self.living = await self._born.start(self._environment, self._dice.kill())
            try:
                code = await asyncio.shield(self.living.ended)
            except asyncio.CancelledError:
                self.living.signal(signal.SIGTERM)
                await self.living.ended
                raise
            if code != -signal.SIGKILL:
                raise RuntimeError(f"A process ended with {code}: {self.living.latest}")
            self._dice.kills += 1


class Hospital:
    """One site: its agent's settings, its operator's wishes, its bare trainer."""

    def __init__(self, study: Study, site: str, name: str) -> None:
        self.study, self.site, self.port = study, site, free_port()
        self.folder = study.folder / name / site
        authority = make_authority("hospital", 1)
        for role in (Role.AGENT, Role.TRAINER, Role.OPERATOR):
            who = Identity("test.example", "participant", "p-1", role)
            hospital_helpers.write_tls(
                self.folder / role.value, authority, who, ["agent"] if role is Role.AGENT else []
            )
        study.issued(Role.INVITATION, f"inv-{site}")

    def environment(self) -> dict[str, str]:
        """Of the agent."""
        return {
            "FEDSTUDY_LISTEN": f"127.0.0.1:{self.port}",
            "FEDSTUDY_TLS": str(self.folder / Role.AGENT.value),
            "FEDSTUDY_UPSTREAM": f"127.0.0.1:{self.study.port}",
            "FEDSTUDY_INVITATION": str(self.study.folder / "tls" / f"invitation-inv-{self.site}"),
            "FEDSTUDY_SITE": self.site,
            "FEDSTUDY_STATE": str(self.folder / "state"),
        }

    def dial(self, role: Role = Role.TRAINER) -> grpc.aio.Channel:
        """To the agent."""
        files = TLSFiles.from_folder(self.folder / role.value)
        return open_channel(f"127.0.0.1:{self.port}", files, server_name="agent")

    async def configure(self) -> None:
        """Approve, once; the agent remembers it."""

        async def wish() -> None:
            async with self.dial(Role.OPERATOR) as channel:
                await hospital_helpers.Operator(channel).configure()

        await persist(wish)

    async def train(self) -> str:
        """Answer everything; the digest of the final model."""
        return await self.study.take_part(self.site, self.dial, self.folder / "trainer")


async def run_study(study: Study, nurseries: dict[str, Nursery], name: str, dice: Dice) -> str:
    """One study under fire; the digest of its final model."""
    hospitals = [Hospital(study, site, name) for site in SITES]
    hub = Undying(nurseries["hub"], study.environment(f"{name}/hub"), dice)
    processes = [hub, *(Undying(nurseries[h.site], h.environment(), dice) for h in hospitals)]

    async def shoot() -> None:
        while dice.left:
            await asyncio.sleep(dice.random.uniform(*PAUSES))
            victim = dice.random.choice(processes).living
            if victim is not None and dice.left:
                victim.signal(signal.SIGKILL)

    async with asyncio.timeout(300), asyncio.TaskGroup() as group:
        for process in processes:
            group.create_task(process.run(), name="background")
        group.create_task(study.sign_whoever_asks(), name="background")
        group.create_task(shoot(), name="background")
        for hospital in hospitals:
            group.create_task(hospital.configure())
        training = [group.create_task(hospital.train()) for hospital in hospitals]
        digests = {await task for task in training}
        for task in asyncio.all_tasks():
            if task.get_name() == "background":
                task.cancel()
    (digest,) = digests
    return digest


async def main(kills: int, seed: int) -> int:
    """Run studies until there were so many kills; 0 if all ended with the same bits."""
    began, different, studies = time.monotonic(), 0, 0
    dice = Dice(kills, seed)
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder) / "study", fakes.plan_of(rounds=ROUNDS), SITES)
        async with AsyncExitStack() as stack:
            nurseries = {
                name: await stack.enter_async_context(nursery(module, Path(folder) / "processes", name))
                for name, module in [("hub", "fedstudy.aggregator"), *((s, "fedstudy.agent") for s in SITES)]
            }
            whole = await run_study(study, nurseries, "whole", Dice(0, seed))
            while dice.left:
                studies += 1
                digest = await run_study(study, nurseries, f"shot-{studies}", dice)
                different += digest != whole
                print(
                    f"study {studies}: {dice.kills} kills so far, {'same' if digest == whole else 'OTHER'} bits",
                    flush=True,
                )
    print(json.dumps({
        "kills": dice.kills, "studies": studies, "rounds": ROUNDS, "different": different,
        "seconds": round(time.monotonic() - began, 1), "digest": whole,
    }))  # fmt: skip
    return 1 if different else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    sys.exit(asyncio.run(main(chosen.kills, chosen.seed)))
