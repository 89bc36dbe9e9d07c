"""Everything that a measured federation needs before it starts: an authority, certificates, a plan, and the command lines."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

from fedstudy.aggregator.config import StudyConfig
from fedstudy.identity import Identity, Role
from fedstudy.plan import StudyPlan
from fedstudy_operator.pki import KeyPair, issue, make_authority

REPOSITORY = Path(__file__).resolve().parents[2]
DOMAIN, UID, PURPOSE = "bench.example", "bench", "DUO:0000007"


def site(number: int) -> str:
    """A site's name; the names sort as the numbers do."""
    return f"site-{number:03d}"


def prepare(folder: Path, sites: int, rounds: int) -> None:
    """Write `tls/<who>`, `config/plan.json` and `config/study.json`."""
    authority = make_authority("bench", 1)
    aggregator = Identity(DOMAIN, "study", UID, Role.AGGREGATOR)
    server = issue(
        authority, identity=aggregator, dns_names=["aggregator"], days=1, server=True, client=False
    )
    _write(folder / "tls" / "server", server, authority)
    for number in range(sites):
        who = Identity(DOMAIN, "study", UID, Role.SITE, site(number))
        pair = issue(authority, identity=who, dns_names=[], days=1, server=False, client=True)
        _write(folder / "tls" / site(number), pair, authority)
    config = folder / "config"
    config.mkdir()
    (config / "plan.json").write_bytes(_plan(sites, rounds).canonical())
    names = [site(number) for number in range(sites)]
    study = StudyConfig(uid=UID, trust_domain=DOMAIN, sites=names, required=names)
    (config / "study.json").write_text(study.model_dump_json(by_alias=True))


def prepare_agents(folder: Path, sites: int) -> None:
    """After `prepare`, and before the agents: what each needs to be enrolled, and `agents/<site>/port`, where it will listen."""
    hospital = make_authority("hospital", 1)
    for name in map(site, range(sites)):
        inside = {
            role: Identity(DOMAIN, "participant", name, role)
            for role in (Role.AGENT, Role.TRAINER, Role.OPERATOR)
        }
        for role, who in inside.items():
            server = role is Role.AGENT
            names = ["agent"] if server else []
            pair = issue(hospital, identity=who, dns_names=names, days=1, server=server, client=not server)
            _write(agent_folder(folder, name) / role.value, pair, hospital)
        shutil.copytree(folder / "tls" / name, agent_folder(folder, name) / "state" / "identity")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            (agent_folder(folder, name) / "port").write_text(str(probe.getsockname()[1]))


def agent_folder(folder: Path, name: str) -> Path:
    """Where a site's agent has its files."""
    return folder / "agents" / name


def _write(folder: Path, pair: KeyPair, authority: KeyPair) -> None:
    folder.mkdir(parents=True)
    (folder / "tls.crt").write_text(pair.certificate_pem)
    (folder / "tls.key").write_text(pair.key_pem)
    (folder / "ca.crt").write_text(authority.certificate_pem)


def _plan(sites: int, rounds: int) -> StudyPlan:
    """FedAvg over covariates: the aggregator asks nothing else of the network's tensors than float32."""
    return StudyPlan.model_validate(
        {
            "study": "bench",
            "uid": UID,
            "purpose": PURPOSE,
            "task": {
                "type": "Classification",
                "covariates": [{"name": "age"}, {"name": "kps"}],
                "target": {"label": "idh", "classes": ["wildtype", "mutant"]},
            },
            "model": {"network": {"name": "Linear"}},
            "preprocessing": {},
            "augmentation": {},
            "training": {"localEpochs": 1, "batchSize": 8, "optimizer": {"learningRate": 0.1}, "seed": 7},
            "federation": {
                "rounds": rounds,
                "minSites": sites,
                "minSamples": 1,
                "evaluateEvery": rounds,
                "roundTimeoutSeconds": 3600,
            },
            "cohort": {},
        }
    )


def server_environment(folder: Path, out: Path, size: int, rounds: int) -> dict[str, str]:
    """What the aggregator's process is told; port 0: it writes the one that it got to `<folder>/port`."""
    return environment(
        FEDSTUDY_LISTEN="127.0.0.1:0",
        FEDSTUDY_TLS=str(folder / "tls" / "server"),
        FEDSTUDY_CONFIG=str(folder / "config"),
        FEDSTUDY_STATE=str(folder / "state"),
        BENCH_FOLDER=str(folder),
        BENCH_OUT=str(out),
        BENCH_SIZE=str(size),
        BENCH_ROUNDS=str(rounds),
    )


def agent_environment(folder: Path, number: int) -> dict[str, str]:
    """What a site's agent is told, once the aggregator has its port; the certificate is there, so that it needs no invitation."""
    here = agent_folder(folder, site(number))
    return environment(
        FEDSTUDY_LISTEN=f"127.0.0.1:{(here / 'port').read_text()}",
        FEDSTUDY_TLS=str(here / Role.AGENT.value),
        FEDSTUDY_UPSTREAM=f"127.0.0.1:{(folder / 'port').read_text()}",
        FEDSTUDY_UPSTREAM_NAME="aggregator",
        FEDSTUDY_INVITATION=str(folder / "tls" / site(number)),
        FEDSTUDY_SITE=site(number),
        FEDSTUDY_STATE=str(here / "state"),
    )


def agent_command() -> list[str]:
    """The real agent."""
    return [sys.executable, "-m", "fedstudy.agent"]


def client_environment(folder: Path, size: int) -> dict[str, str]:
    """What a process of bare sites is told."""
    return environment(BENCH_FOLDER=str(folder), BENCH_SIZE=str(size))


def server_command() -> list[str]:
    """The aggregator, behind a wrapper that marks rounds."""
    return [sys.executable, "-m", "benchmarks.wire.server"]


def client_command(first: int, last: int) -> list[str]:
    """A process of the bare sites first..last."""
    return [sys.executable, "-m", "benchmarks.wire.client", str(first), str(last)]


def environment(**more: str) -> dict[str, str]:
    """What every process here is told: where this package is, and that numpy shall use one thread."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **more}
