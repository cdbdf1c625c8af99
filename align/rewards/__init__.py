"""Reward models looked at by themselves: found, checked, measured, compared, served. What `align reward` calls."""
