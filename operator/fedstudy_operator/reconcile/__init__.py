"""Reconcilers: what is observed goes in, what is wanted comes out. Level-triggered; every pass may be the first and may be the last."""
