"""translate: what a container's command becomes on one machine. Pure."""

from __future__ import annotations

import sys
from pathlib import Path

from fedstudy_operator.local.translate import Places, resolve, rewrite, translate

PORTS = {("glioma-aggregator", "hub", 443): 20001, ("agent", "a", 8443): 20002}


def places() -> Places:
    return Places(
        mounts={
            "/data": Path("/w/claim"),
            "/data/deep": Path("/w/deep"),
            "/etc/fedstudy/tls": Path("/w/tls"),
        },
        ports={8443: 20002},
        service=lambda name, namespace, port: PORTS[(name, namespace, port)],
        home=Path("/w/home"),
    )


def test_mount_paths_become_folders_and_the_longest_one_counts() -> None:
    assert rewrite("/data", places()) == "/w/claim"
    assert rewrite("/data/sub/x", places()) == "/w/claim/sub/x"
    assert rewrite("/data/deep/x", places()) == "/w/deep/x"
    assert rewrite("--out=/data/x,/etc/fedstudy/tls", places()) == "--out=/w/claim/x,/w/tls"


def test_what_only_looks_like_a_mount_path_is_left_alone() -> None:
    for text in ("/database", "/mnt/data", "https://host/data", "data"):
        assert rewrite(text, places()) == text


def test_service_names_and_listening_addresses_become_loopback_ports() -> None:
    assert rewrite("glioma-aggregator.hub.svc:443", places()) == "127.0.0.1:20001"
    assert rewrite("glioma-aggregator.hub.svc.cluster.local:443", places()) == "127.0.0.1:20001"
    assert rewrite("0.0.0.0:8443", places()) == "127.0.0.1:20002"
    assert rewrite("10.0.0.0:8443", places()) == "10.0.0.0:8443"
    assert resolve("agent.a.svc:8443", places().service) == "127.0.0.1:20002"
    assert resolve("hub.example.org:443", places().service) == "hub.example.org:443"


def test_commands_of_the_images_become_modules_with_a_small_environment() -> None:
    container = {
        "name": "c",
        "command": ["fedstudy-trainer"],
        "args": ["run"],
        "env": [
            {"name": "FEDSTUDY_DATA", "value": "/data"},
            {"name": "FEDSTUDY_THREADS", "value": "2"},
            {"name": "FROM_ELSEWHERE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
    }
    command = translate(container, places(), {"PATH": "/bin", "AWS_SECRET": "no", "HOME": "/root"})
    assert command.arguments == (sys.executable, "-m", "fedstudy_trainer", "run")
    assert command.folder == Path("/w/home")
    assert command.environment == {
        "PATH": "/bin",
        "LANG": "C.UTF-8",
        "HOME": "/w/home",
        "TMPDIR": "/w/home",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "2",
        "FEDSTUDY_DATA": "/w/claim",
        "FEDSTUDY_THREADS": "2",
    }
