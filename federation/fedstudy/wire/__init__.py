"""The wire: one protocol, mutual TLS 1.3, resumable streams of chunks."""
