"""Loading, sampling from and saving models."""
