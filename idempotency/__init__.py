"""Idempotency keys for Django REST framework: a cache, a lock and a ledger in front of `create()`."""

__version__ = "0.1.0"
