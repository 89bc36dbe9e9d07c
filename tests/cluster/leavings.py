"""Takes away what a cluster leaves on this machine, whoever started it: processes, mounts, namespaces, links, routes, cgroups."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

_CNI_RECORDS = Path("/var/lib/cni/results")


def down(number: int, folder: Path) -> None:
    """Remove what a node left on this machine, whoever started it: processes, mounts, namespaces, links, routes, cgroups."""
    name, socket = f"fedstudy-{number}", folder / "containerd" / "containerd.sock"
    for component in ("addons.py", "kubelet", "kube-proxy"):
        _kill_by_argument(component, str(folder))
    end = time.monotonic() + 10
    while (processes := _in_cgroup(name)) and time.monotonic() < end:
        for process in processes:
            _kill(process)
        time.sleep(0.05)
    _kill_by_argument("containerd-shim-runc-v2", str(socket))
    _kill_by_argument("containerd", str(folder / "containerd.toml"))
    for mount in reversed(_mounts_below(folder)):
        subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
    for namespace in _pod_namespaces(name):
        subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)
    subprocess.run(["ip", "link", "del", f"fed{number}"], check=False, capture_output=True)
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    for root in (*cgroup_roots(), Path("/sys/fs/cgroup/unified")):
        for below, _, _ in os.walk(root / name, topdown=False):
            _remove(Path(below))
    for leftover in ("etcd", "kubelet", "cni-addresses", "pod-logs", "volumes", "containerd/state"):
        shutil.rmtree(folder / leftover, ignore_errors=True)
    (folder / "owner.pid").unlink(missing_ok=True)
    _remove_links(Path("/var/log/containers"), folder)
    for record in _CNI_RECORDS.glob(f"{name}-*"):
        sandbox = record.name.removeprefix(f"{name}-").removesuffix("-eth0")
        (_CNI_RECORDS / f"cni-loopback-{sandbox}-lo").unlink(missing_ok=True)
        record.unlink(missing_ok=True)


def _remove_links(place: Path, folder: Path) -> None:
    """Remove the links that kubelet makes outside its own folder."""
    for link in place.iterdir() if place.is_dir() else ():
        if link.is_symlink() and str(link.readlink()).startswith(f"{folder}/"):
            link.unlink(missing_ok=True)


def cgroup_roots() -> list[Path]:
    """The cgroup hierarchies: each controller of version 1, else the one of version 2."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return [path for path in sorted(root.iterdir()) if path.is_dir() and path.name != "unified"]


def _in_cgroup(name: str) -> set[int]:
    found: set[int] = set()
    for root in cgroup_roots():
        for below, _, _ in os.walk(root / name):  # it passes over what ends meanwhile
            try:
                found |= {int(line) for line in (Path(below) / "cgroup.procs").read_text().split()}
            except OSError:
                continue  # the cgroup ended while we looked
    return found - {os.getpid()}


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def _kill_by_argument(program: str, argument: str) -> None:
    """Kill processes of a program which name our folder."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        named = any(Path(word).name == program for word in words[:4])
        if named and any(word.removeprefix("--config=").startswith(argument) for word in words):
            _kill(int(entry.name))


def _mounts_below(folder: Path) -> list[str]:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return sorted(mount for mount in mounts if mount.startswith(f"{folder}/"))


def _pod_namespaces(name: str) -> list[str]:
    """Network namespaces of pods: the far ends of the node's veth pairs, and those that CNI has on record."""
    command = ["nsenter", f"--net=/run/netns/{name}", "ip", "-oneline", "link"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = set(re.findall(r"link-netns (cni-\S+)", done.stdout))  # its JSON gives numbers instead of names
    for record in _CNI_RECORDS.glob(f"{name}-*"):
        found |= set(re.findall(r"/netns/(cni-[0-9a-f-]+)", record.read_text()))
    return sorted(found)


def _remove(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # a process in it has not ended yet; the next start removes it
