"""The demo: a registration window with faults, storms and a Redis that goes away."""
