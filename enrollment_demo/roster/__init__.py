"""Seats: who sits in which course."""
