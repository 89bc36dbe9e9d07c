"""What the operator does not import, and how little it keeps of an object: a thousand studies are to fit into 150 MiB."""

from __future__ import annotations

import subprocess
import sys

from fedstudy_operator.cluster import Key, Object
from fedstudy_operator.kube.memory import Packed, pack

KEY = Key("FederatedStudy", "hub", "glioma")


def status(reason: str = "Provisioning") -> Object:
    conditions = [
        {"type": f"Type{n}", "status": "False", "reason": reason, "message": f"{reason} since the pod is not running yet",
         "lastTransitionTime": f"2026-01-01T00:00:{n:02d}Z", "observedGeneration": 1}
        for n in range(10)
    ]  # fmt: skip
    return {"status": {"conditions": conditions}}


def test_neither_the_synchronous_client_nor_torch_is_imported() -> None:
    unwanted = ("requests", "oauthlib", "websocket", "torch", "numpy", "rich")
    code = f"import sys, fedstudy_operator.kube.main; print([name for name in {unwanted} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_status_is_kept_in_less_than_half_a_kilobyte() -> None:
    assert len(pack(status())) < 512


def test_what_is_kept_comes_back_as_it_was_until_it_is_dropped() -> None:
    kept = Packed()
    kept.put(KEY, status())
    kept.put(KEY, status("Running"))
    assert kept.get(KEY) == status("Running")
    assert list(kept.objects()) == [status("Running")]
    assert kept.pop(KEY) == status("Running")
    assert kept.pop(KEY) is None
    kept.put(KEY, status())
    kept.drop(KEY)
    assert kept.get(KEY) is None
