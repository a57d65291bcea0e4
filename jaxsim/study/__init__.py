"""Scores to trust: truths, agreement with them, and rules without a model."""
