"""One machine instead of a cluster: the same port in memory, and a kubelet that runs containers as processes."""
