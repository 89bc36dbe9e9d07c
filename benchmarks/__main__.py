"""All benchmarks one after the other, each with its defaults: ``python -m benchmarks``, which is ``make bench``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Run every package and script of this folder; exit 1 where one failed, after all have run."""
    here = Path(__file__).resolve()
    scripts = [path.stem for path in sorted(here.parent.glob("*.py")) if path != here and _is_script(path)]
    packages = [path.parent.name for path in sorted(here.parent.glob("*/__main__.py"))]
    failed = []
    for name in [*packages, *scripts]:
        print(f"\n== {name}", flush=True)
        if subprocess.call([sys.executable, "-m", f"benchmarks.{name}"], cwd=here.parent.parent):
            failed.append(name)
    if failed:
        sys.exit(f"These failed: {', '.join(failed)}.")


def _is_script(path: Path) -> bool:
    return '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
