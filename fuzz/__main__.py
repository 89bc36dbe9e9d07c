"""Coverage-guided fuzzing of all that reads bytes which others made, for `make fuzz`: from right inputs, for as long as told.

Run: ``python -m fuzz -max_total_time=3600`` (libFuzzer's options). Whatever is raised but a typed refusal, a hang, or too much
memory is a finding: its bytes are then in `.fuzz/crash-…`, and ``python -m fuzz .fuzz/crash-…`` does it again. What was found
to reach new code is kept in `.fuzz/corpus`, where the next run begins.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["fedstudy"]):
    from fuzz import examples
    from fuzz.mutate import mutated
    from fuzz.targets import run, seeds

ROOM = Path(".fuzz")


def _mutate(data: bytes, most: int, seed: int) -> bytes:
    return mutated(data, most, seed, atheris.Mutate)


def _prepare() -> list[str]:
    """Write seeds and words; the arguments that name them."""
    corpus, first, words = ROOM / "corpus", ROOM / "seeds", ROOM / "words"
    for folder in (corpus, first):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds():
        (first / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    words.write_text("".join(f'"{_quoted(word)}"\n' for word in examples.words()))
    return [f"-dict={words}", f"-artifact_prefix={ROOM}/", "-max_len=16384", str(corpus), str(first)]


def _quoted(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def main() -> None:
    """Fuzz; libFuzzer ends the process."""
    logging.disable(logging.CRITICAL)  # a line for each refusal
    told = sys.argv[1:]
    if not any(Path(word).is_file() for word in told):
        told = [*_prepare(), *told]
    atheris.Setup([sys.argv[0], *told], run, custom_mutator=_mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
