"""Idempotency keys for Django REST framework: cache, lock and ledger in front of `create()`."""

__version__ = "0.1.0"
