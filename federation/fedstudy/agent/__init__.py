"""The agent: a hospital's only door. It holds the key, enforces the policy, keeps the ledger, stores and forwards."""
