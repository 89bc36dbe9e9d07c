"""The commands that work on a cluster: each a function that takes an Access and gives text or files; cli_cluster.py has their words."""
