"""What needs a package that we do not: each module is imported only where that package is."""
