"""Fixtures of the tiny pool, as in tests/scoring."""

from scoring.conftest import config, project, quick_compilation, scorer, workdir

__all__ = ["config", "project", "quick_compilation", "scorer", "workdir"]
