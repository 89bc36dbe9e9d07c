"""fedstudy under the rivals' harness: link this folder into its `adapters/`, and name it with --framework fedstudy."""

import shutil
import sys
from pathlib import Path

from adapters.base import BaseAdapter

sys.path.append(str(Path(__file__).resolve().parents[4]))
from benchmarks.wire import deploy


class Adapter(BaseAdapter):
    """The real aggregator process, and one process of a bare site for each client."""

    name = "fedstudy"
    venv = "v-fedstudy"  # a link to this repository's virtual environment
    packages = ("fedstudy", "grpcio", "numpy", "protobuf")
    security = "mutual TLS 1.3 (ECDSA P-256), gRPC"

    def prepare(self, run):
        """Certificates and the plan."""
        deploy.prepare(run.dir, run.config.clients, run.config.rounds)

    def start(self, run):
        """The aggregator, then the sites, which wait for its port."""
        size, rounds = run.config.nbytes, run.config.rounds
        environment = deploy.server_environment(run.dir, run.out, size, rounds)
        run.spawn("server", deploy.server_command(), env=environment)
        for i in range(run.config.clients):
            run.spawn(
                f"client-{i}", deploy.client_command(i, i), env=deploy.client_environment(run.dir, size)
            )

    def clean(self, run):
        """Models and spools."""
        for folder in ("state", "sites"):
            shutil.rmtree(run.dir / folder, ignore_errors=True)
