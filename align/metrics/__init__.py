"""Measurements as pure functions: overlap, diversity, classification, and the intervals around them."""
