"""Figures of this package and its peers, as ratios that one run measures side by side."""
