"""The process kubelet, with real processes: Python one-liners in the place of containers."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fedstudy_operator.cluster import Key, Object
from fedstudy_operator.local.kubelet import Kubelet
from fedstudy_operator.local.processes import start_time
from fedstudy_operator.local.store import LocalCluster

SERVE = (
    "import os,socket,time;h,p=os.environ['LISTEN'].split(':');s=socket.create_server((h,int(p)));"
    "print('serving',flush=True);time.sleep(600)"
)


def container(code: str, **env: str) -> dict[str, Any]:
    return {
        "name": "main",
        "command": ["python", "-S", "-c", code],
        "env": [{"name": k, "value": v} for k, v in env.items()],
    }


def workload(kind: str, name: str, pod: dict[str, Any], **spec: Any) -> Object:
    return {
        "apiVersion": "batch/v1" if kind == "Job" else "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "a"},
        "spec": {
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 5, **pod},
            },
            **spec,
        },
    }


def job(name: str, code: str, **spec: Any) -> Object:
    return workload("Job", name, {"restartPolicy": "Never", "containers": [container(code)]}, **spec)


@asynccontextmanager
async def machine(
    cluster: LocalCluster, folder: Path, claims: dict[tuple[str, str], Path] | None = None
) -> AsyncIterator[Kubelet]:
    kubelet = Kubelet(cluster, folder / "work", logs=folder / "logs", claims=claims or {})
    await kubelet.start()
    try:
        yield kubelet
    finally:
        await kubelet.stop()


async def until(cluster: LocalCluster, kind: str, name: str, holds: Callable[[Object], Any]) -> Object:
    async with asyncio.timeout(20):
        async for event in cluster.watch(kind):
            if event.object["metadata"]["name"] == name and event.type != "DELETED" and holds(event.object):
                return event.object
    raise AssertionError


def ended(obj: Object) -> str:
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((f"{c['type']}/{c.get('reason', '')}" for c in conditions if c["status"] == "True"), "")


async def eventually(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - files and processes send no event
            await asyncio.sleep(0.02)


def state(pod: Object) -> dict[str, Any]:
    found: dict[str, Any] = ((pod.get("status") or {}).get("containerStatuses") or [{}])[0].get("state") or {}
    return found


async def test_a_job_that_succeeds_is_complete(tmp_path: Path) -> None:
    cluster = LocalCluster()
    async with machine(cluster, tmp_path):
        await cluster.apply(job("ok", "print('hello')"), manager="t")
        done = await until(cluster, "Job", "ok", ended)
    assert ended(done) == "Complete/CompletionsReached"
    assert done["status"]["succeeded"] == 1
    assert (tmp_path / "logs" / "a.ok-0.log").read_text() == "hello\n"


async def test_a_job_is_tried_again_and_then_given_up_with_its_last_words(tmp_path: Path) -> None:
    cluster = LocalCluster()
    async with machine(cluster, tmp_path):
        await cluster.apply(job("bad", "raise SystemExit('no luck')", backoffLimit=1), manager="t")
        done = await until(cluster, "Job", "bad", ended)
    assert ended(done) == "Failed/BackoffLimitExceeded"
    assert done["status"]["failed"] == 2
    pod = await cluster.get(Key("Pod", "a", "bad-1"))
    assert state(pod)["terminated"]["reason"] == "Error"
    assert state(pod)["terminated"]["message"] == "no luck\n"


async def test_an_exit_code_of_the_policy_ends_a_job_at_once(tmp_path: Path) -> None:
    cluster = LocalCluster()
    policy = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3, 4, 5, 6]}}]}
    async with machine(cluster, tmp_path):
        await cluster.apply(job("final", "import os;os._exit(4)", podFailurePolicy=policy), manager="t")
        done = await until(cluster, "Job", "final", ended)
    assert (ended(done), done["status"]["failed"]) == ("Failed/PodFailurePolicy", 1)


async def test_a_process_that_the_kernel_kills_is_out_of_memory(tmp_path: Path) -> None:
    cluster = LocalCluster()
    code = "import os,signal;os.kill(os.getpid(),signal.SIGKILL)"
    async with machine(cluster, tmp_path):
        await cluster.apply(job("big", code, backoffLimit=0), manager="t")
        await until(cluster, "Job", "big", ended)
    terminated = state(await cluster.get(Key("Pod", "a", "big-0")))["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (137, "OOMKilled")


async def test_a_server_is_ready_when_it_listens_and_keeps_its_port_and_volume_when_it_restarts(
    tmp_path: Path,
) -> None:
    cluster = LocalCluster()
    serve = {
        **container(
            "open(__import__('os').environ['DIR']+'/n','a').write('x');" + SERVE,
            LISTEN="0.0.0.0:8443",
            DIR="/state",
        )
    }
    serve["ports"] = [{"containerPort": 8443, "name": "grpc"}]
    serve["volumeMounts"] = [{"name": "state", "mountPath": "/state"}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "srv", "namespace": "a"},
        "spec": {"selector": {"app": "srv"}, "ports": [{"port": 443, "targetPort": "grpc"}]},
    }
    async with machine(cluster, tmp_path) as kubelet:
        address = kubelet.resolve("srv.a.svc:443")
        await cluster.apply(service, manager="t")
        sts = workload(
            "StatefulSet",
            "srv",
            {"containers": [serve]},
            replicas=1,
            volumeClaimTemplates=[{"metadata": {"name": "state"}}],
        )
        await cluster.apply(sts, manager="t")
        await until(
            cluster, "StatefulSet", "srv", lambda o: (o.get("status") or {}).get("readyReplicas") == 1
        )
        host, port = address.split(":")
        socket.create_connection((host, int(port))).close()
        os.kill(kubelet.processes()["a/srv-0"], signal.SIGTERM)
        restarted = lambda p: p["status"]["containerStatuses"][0]["restartCount"] == 1 and ended(p)  # noqa: E731
        await until(cluster, "Pod", "srv-0", lambda p: p.get("status") and restarted(p))
        socket.create_connection((host, int(port))).close()
        assert (tmp_path / "work" / "volumes" / "a" / "state-srv-0" / "n").read_text() == "xx"
        pid = kubelet.processes()["a/srv-0"]
        await cluster.delete(Key("StatefulSet", "a", "srv"))
        await eventually(lambda: not start_time(pid))
    assert kubelet.peak_total > 0
    assert "operator" in kubelet.peaks()


async def test_secrets_are_private_and_changes_reach_a_running_container(tmp_path: Path) -> None:
    def secret(text: str) -> Object:
        data = {"tls.key": base64.b64encode(text.encode()).decode()}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "s", "namespace": "a"},
            "data": data,
        }

    code = (
        "import os,sys,time\nf=os.environ['TLS']+'/tls.key'\n"
        "while open(f).read()!='new': time.sleep(0.02)\n"
        "assert os.stat(f).st_mode & 0o077 == 0"
    )
    pod = {"restartPolicy": "Never", "containers": [container(code, TLS="/tls")]}
    pod["containers"][0]["volumeMounts"] = [{"name": "tls", "mountPath": "/tls"}]  # type: ignore[index]
    pod["volumes"] = [{"name": "tls", "secret": {"secretName": "s"}}]
    cluster = LocalCluster()
    async with machine(cluster, tmp_path):
        await cluster.apply(workload("Job", "reader", pod, backoffLimit=0), manager="t")
        waiting = await until(cluster, "Pod", "reader-0", state)
        assert state(waiting)["waiting"]["reason"] == "CreateContainerConfigError"
        await cluster.apply(secret("old"), manager="t")
        await until(cluster, "Pod", "reader-0", lambda p: "running" in state(p))
        await cluster.apply(secret("new"), manager="t")
        assert ended(await until(cluster, "Job", "reader", ended)).startswith("Complete")


async def test_a_claim_that_nobody_mapped_keeps_the_pod_pending_with_the_reason(tmp_path: Path) -> None:
    pod = {
        "restartPolicy": "Never",
        "containers": [container("")],
        "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "scans", "readOnly": True}}],
    }
    cluster = LocalCluster()
    async with machine(cluster, tmp_path):
        await cluster.apply(workload("Job", "j", pod), manager="t")
        waiting = state(await until(cluster, "Pod", "j-0", state))["waiting"]
    assert waiting["reason"] == "ClaimNotFound"
    assert "--volume scans=FOLDER" in waiting["message"]


async def test_a_taken_port_is_said_and_the_pod_starts_when_it_is_free(tmp_path: Path) -> None:
    cluster = LocalCluster()
    serve = {**container(SERVE, LISTEN="0.0.0.0:1"), "ports": [{"containerPort": 1}]}
    async with machine(cluster, tmp_path) as kubelet:
        await cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "p", "namespace": "a"},
                "spec": {"selector": {"app": "p"}, "ports": [{"port": 1}]},
            },
            manager="t",
        )
        host, port = kubelet.resolve("p.a.svc:1").split(":")
        with socket.create_server((host, int(port))):
            await cluster.apply(workload("Deployment", "p", {"containers": [serve]}), manager="t")
            waiting = state(await until(cluster, "Pod", "p-0", state))["waiting"]
            assert waiting["reason"] == "PortInUse"
        await until(cluster, "Pod", "p-0", ended)


async def test_a_changed_template_replaces_the_pod(tmp_path: Path) -> None:
    cluster = LocalCluster()
    sleep = "import time;time.sleep(600)"
    async with machine(cluster, tmp_path):
        await cluster.apply(
            workload("StatefulSet", "s", {"containers": [container(sleep, A="1")]}), manager="t"
        )
        first = await until(cluster, "Pod", "s-0", ended)
        await cluster.apply(
            workload("StatefulSet", "s", {"containers": [container(sleep, A="2")]}), manager="t"
        )
        await until(
            cluster, "Pod", "s-0", lambda p: p["metadata"]["uid"] != first["metadata"]["uid"] and ended(p)
        )


async def test_stopping_ends_the_components_in_order_and_whole_groups(tmp_path: Path) -> None:
    cluster = LocalCluster()
    order = tmp_path / "order"
    code = (
        "import os,signal,subprocess,sys,time\n"
        "child=subprocess.Popen([sys.executable,'-S','-c','import time;time.sleep(600)'])\n"
        "def end(*_):\n"
        f" open({str(order)!r},'a').write(os.environ['NAME']+' '); os._exit(0)\n"
        "signal.signal(signal.SIGTERM,end)\n"
        f"open({str(tmp_path)!r}+'/'+os.environ['NAME'],'w').write(str(child.pid))\n"
        "while True: time.sleep(1)"
    )
    names = ["aggregator", "trainer", "agent"]
    async with machine(cluster, tmp_path):
        for name in names:
            obj = workload("Deployment", name, {"containers": [container(code, NAME=name)]})
            obj["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] = name
            await cluster.apply(obj, manager="t")
        await eventually(lambda: all((tmp_path / n).exists() and (tmp_path / n).read_text() for n in names))
    assert order.read_text().split() == ["trainer", "agent", "aggregator"]
    # Killed they are; on a busy machine they may still have to be scheduled once to die of it.
    await eventually(lambda: not any(start_time(int((tmp_path / n).read_text())) for n in names))
    assert list((tmp_path / "work" / "processes").iterdir()) == []


PARENT = """
import asyncio, sys
from pathlib import Path
from fedstudy_operator.local.kubelet import Kubelet
from fedstudy_operator.local.store import LocalCluster

async def main(folder):
    cluster = LocalCluster()
    kubelet = Kubelet(cluster, folder / "work", logs=folder / "logs", claims={})
    await kubelet.start()
    sleep = {"name": "m", "command": ["python", "-S", "-c", "import time;time.sleep(600)"]}
    await cluster.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "a"},
        "spec": {"template": {"spec": {"containers": [sleep]}}}}, manager="t")
    while not kubelet.processes():
        await asyncio.sleep(0.02)
    print(kubelet.processes()["a/d-0"], flush=True)
    await asyncio.sleep(600)

asyncio.run(main(Path(sys.argv[1])))
"""


def _parent(folder: Path) -> tuple[subprocess.Popen[str], int]:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(folder)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


async def test_no_process_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent, child = await asyncio.to_thread(_parent, tmp_path)
    assert start_time(child)
    parent.kill()
    parent.wait()
    assert parent.stdout is not None
    parent.stdout.close()
    await eventually(lambda: not start_time(child))


async def test_what_an_earlier_run_left_behind_is_ended_at_the_next_start(tmp_path: Path) -> None:
    stray = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", "import time;time.sleep(600)", start_new_session=True
    )
    records = tmp_path / "work" / "processes"
    records.mkdir(parents=True)
    (records / "a.x-0.json").write_text(json.dumps({"pid": stray.pid, "started": start_time(stray.pid)}))
    (records / "a.y-0.json").write_text(json.dumps({"pid": os.getpid(), "started": "another life"}))
    async with machine(LocalCluster(), tmp_path):
        async with asyncio.timeout(10):
            assert await stray.wait() == -signal.SIGKILL
    assert list(records.iterdir()) == []
