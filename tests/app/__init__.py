"""A small project application that the suites protect."""
