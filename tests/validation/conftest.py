"""Fixtures of the tiny pool, as in tests/scoring."""

from scoring.conftest import config, project, quick_compilation, scorer

__all__ = ["config", "project", "quick_compilation", "scorer"]
