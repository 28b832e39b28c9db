"""Proves the guards: takes one away at a time, and the tests must notice.

python -m mutants [--only NAME ...] [--list]
"""
