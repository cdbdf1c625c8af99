"""Data sets: reading rows, rendering them into examples, checking them before work starts, the embedded corpus."""
