"""The wire: one protocol, mutual TLS 1.3, resumable streams of chunks.

Importing this package, which happens before grpc is imported by anything in it, leaves only RSA suites on for TLS 1.2. Our keys
are ECDSA, so that a TLS 1.2 handshake finds no suite and TLS 1.3 is all that remains; grpc's Python API cannot say so otherwise.
"""

import os

os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256"
