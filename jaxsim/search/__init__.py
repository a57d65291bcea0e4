"""Scores to an answer: the best mixture, and all that ties with it."""
