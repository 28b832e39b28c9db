"""Likely duplicates in the access logs of a web server; see `idempotency_audit`.

Imports neither Django nor anything else of this package.
"""
