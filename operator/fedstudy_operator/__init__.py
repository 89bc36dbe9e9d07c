"""fedstudy's control plane: the only part with Kubernetes credentials, or, on one machine, with processes to start."""
