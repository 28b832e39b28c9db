"""A sample of three services, and the demo that storms them."""
