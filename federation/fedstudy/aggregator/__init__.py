"""The aggregator runs one study: rounds, folding, checkpoints, evaluation, and the study's history."""
