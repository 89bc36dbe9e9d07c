"""Coverage-guided fuzzing (atheris) of all that reads bytes which others made; see `fuzz.__main__`."""
