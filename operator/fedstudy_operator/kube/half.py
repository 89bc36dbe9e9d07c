"""The asynchronous half of the kubernetes client.

Its package imports the synchronous half too, with requests, OAuth and websockets: 7 MiB that nobody uses.
"""

import importlib.util
import sys

_NAME = "kubernetes"

if _NAME not in sys.modules and (_found := importlib.util.find_spec(_NAME)) is not None:
    sys.modules[_NAME] = importlib.util.module_from_spec(_found)  # found, with its modules, but not run

from kubernetes.aio import client, config  # noqa: E402 - only now
from kubernetes.aio.client.exceptions import ApiException  # noqa: E402

__all__ = ["ApiException", "client", "config"]
