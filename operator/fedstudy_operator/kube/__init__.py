"""The operator in a real cluster: kopf watches, kubernetes.aio reads and writes, a Lease says which replica may."""
