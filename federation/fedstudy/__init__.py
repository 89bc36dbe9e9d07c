"""fedstudy's core: what the aggregator, the agent and the trainer share; it needs neither torch nor Kubernetes."""

import os

__version__ = "0.1.0"

# TLS 1.3 only, which grpc's Python API cannot say: our keys are ECDSA, and with RSA suites alone left on for TLS 1.2 such a
# handshake finds none. grpc reads this once, when it is imported, so that it must stand here, before any of our modules does so
# (fedstudy.wire.auth refuses what gets past it).
os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256"
