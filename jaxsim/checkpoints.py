"""Orbax, in one file: parameter trees, and training states by step.

Orbax writes to a temporary folder and renames it when all is there, but it
does not notice flipped bits later, and it lists a step whose commit file is
gone (measured with 0.12.8). So nothing here decides what is admitted: the
pool's manifests do.
"""

from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from jaxsim.errors import DamagedError


def save_params(path: Path, params: Any) -> None:
    """Saves a tree of arrays at `path`, which must not exist yet."""
    ocp.save(path.absolute(), params)


def load_params(path: Path, shapes: Any) -> Any:
    """The tree at `path` as numpy arrays.

    Args:
      path: as given to `save_params`.
      shapes: the expected tree of shapes and dtypes. Orbax casts silently to
        a dtype it is asked for, so ask for the one that was saved.

    Raises:
      DamagedError: the tree is incomplete, unreadable or of another shape.
    """
    target = jax.tree.map(lambda s: np.empty(s.shape, s.dtype), shapes)
    try:
        return ocp.load(path.absolute(), target)
    # What a damaged store raises is not documented and differs by damage
    # (ValueError, KeyError, FileNotFoundError, tensorstore's own).
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DamagedError(
            f"{path}: cannot be restored: {reason[0][:200]}"
        ) from error


class TrainingCheckpoints:
    """The states of one unfinished run, the latest two kept."""

    def __init__(self, directory: Path) -> None:
        self._checkpointer = ocp.training.Checkpointer(
            directory.absolute(),
            save_decision_policy=(
                ocp.training.save_decision_policies.FixedIntervalPolicy(1)
            ),
            preservation_policy=(
                ocp.training.preservation_policies.LatestN(2)
            ),
            cleanup_tmp_directories=True,
        )

    def latest_step(self) -> int | None:
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def restore(self, abstract_state: Any) -> Any:
        """The latest state, with the shardings of `abstract_state`."""
        return self._checkpointer.load(None, abstract_state)

    def save(self, step: int, state: Any) -> None:
        """Starts to save; arrays are copied before this returns."""
        self._checkpointer.save_async(step, state)

    def save_and_wait(self, step: int, state: Any) -> None:
        """Saves, and returns when the commit is on disk."""
        self._checkpointer.save(step, state, overwrite=True)

    def __enter__(self) -> "TrainingCheckpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._checkpointer.close()
