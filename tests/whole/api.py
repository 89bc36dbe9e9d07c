"""A test's eyes: the API server asked directly, so that looking often costs no process, as kubectl would."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

Object = dict[str, Any]


class Eyes:
    """Reads what is in the cluster, as the administrator.

    Args:
        config: what `kubectl config view --raw --flatten --minify -o json` says.
        folder: for the client certificate; the test's own eyes only.
    """

    def __init__(self, config: Object, folder: Path) -> None:
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._url = str(cluster["server"])
        self._token = str(user.get("token", ""))
        authority = cluster.get("certificate-authority-data", "")
        self._context = ssl.create_default_context(cadata=base64.b64decode(authority).decode() or None)
        if "client-key-data" in user:
            pair = folder / "administrator.pem"
            pair.touch(mode=0o600)
            pair.write_bytes(
                base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"])
            )
            self._context.load_cert_chain(pair)

    def get(self, path: str) -> Object | None:
        """An object; None where it is not there."""
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        request = urllib.request.Request(self._url + path, headers=headers)
        try:
            with urllib.request.urlopen(request, context=self._context, timeout=30) as answer:
                found: Object = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def list(self, path: str, **labels: str) -> list[Object]:
        """The objects of a collection that have these labels (`component` and `participant` or `study` in short)."""
        selector = ",".join(f"{_LABELS.get(name, name)}={value}" for name, value in labels.items())
        found = self.get(f"{path}?labelSelector={urllib.parse.quote(selector)}")
        items: list[Object] = (found or {}).get("items") or []
        return items


_LABELS = {
    "component": "app.kubernetes.io/component",
    "participant": "fedstudy.io/participant",
    "study": "fedstudy.io/study",
}
