"""One module a service; all share `base`."""
