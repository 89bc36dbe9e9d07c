"""Lets the crash tests import their helpers by name, as the random kills of `benchmarks/crash_random.py` do."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
