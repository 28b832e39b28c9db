"""All faults together, over real servers and processes, and an oracle that judges from outside."""
