"""Saves parameter trees, and training states by step, with Orbax.

Orbax renames a temporary folder when a save is complete, but it does not notice
flipped bits later, and it lists a step whose commit file is gone (0.12.8). So a
checkpoint alone admits nothing to the pool; a manifest does (`pool/publish.py`).
"""

import contextlib
import functools
import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from jaxsim.errors import DamagedError, JaxsimError, UserError

StatePath: TypeAlias = epath.Path  # of training states: a local path or gs://


class NotSaved(JaxsimError):
    """A save failed; what was on disk before still is."""


def save_params(path: Path, params: Any) -> None:
    """Saves a tree of arrays at `path`, which must not exist yet.

    Every process calls it with the same path: Orbax compares them, even if only one
    process takes part (0.12.8).

    Raises:
      NotSaved: the disk is full or not writable.
    """
    with _saving(path, params):
        ocp.save(path.absolute(), params)


def load_params(path: Path, shapes: Any) -> Any:
    """Loads the tree at `path` as numpy arrays.

    Args:
      path: as given to `save_params`.
      shapes: the tree of shapes and dtypes that was saved. Orbax would cast to
        another dtype without a warning.

    Raises:
      DamagedError: the tree is incomplete, unreadable or has other shapes.
    """
    target = jax.tree.map(lambda s: np.empty(s.shape, s.dtype), shapes)
    with _restoring(f"{path}: cannot be restored"):
        with _alone():
            params = ocp.load(path.absolute(), target)
        # Orbax does not refuse a numpy target of another shape (0.12.8).
        for key, leaf in jax.tree_util.tree_leaves_with_path(shapes):
            found = functools.reduce(lambda node, k: node[k.key], key, params)
            if np.shape(found) != leaf.shape:
                raise ValueError(
                    f"{jax.tree_util.keystr(key)} has shape {np.shape(found)} "
                    f"instead of {leaf.shape}"
                )
        return params


def state_folder(path: str) -> StatePath:
    """Creates the folder that `config.train.state_path` names.

    Raises:
      UserError: Orbax cannot write there, or gcsfs is not installed.
    """
    what = f"config.train.state_path={path!r}"
    protocol, separator, _ = path.rpartition("://")
    if separator and protocol != "gs":  # measured with Orbax 0.12.8
        raise UserError(
            f"{what}: Orbax writes to file systems and to gs://, and not to "
            f"{protocol}://; use one of those, or leave it empty"
        )
    if separator and importlib.util.find_spec("gcsfs") is None:
        raise UserError(
            f"{what}: gcsfs is not installed; pip install 'jaxsim-mixtures[gcs]'"
        )
    if found := re.search(r"[*?\[\]]", path):
        raise UserError(
            f"{what}: {found[0]!r} in the path; Orbax reads it as a pattern"
        )
    folder = StatePath(path) if separator else StatePath(path).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    # Clients of object stores raise the errors of their network libraries.
    except Exception as error:
        raise UserError(
            f"{what}: cannot create this folder: {_first_line(error)}"
        ) from error
    return folder


def is_remote(path: Path | StatePath) -> bool:
    """Whether a path is in an object store."""
    return "://" in str(path)


def delete(folder: StatePath) -> None:
    """Deletes training states, if they exist."""
    if is_remote(folder):
        with contextlib.suppress(OSError):
            folder.rmtree()
    else:
        shutil.rmtree(folder, ignore_errors=True)


class TrainingCheckpoints:
    """The training states of an unfinished run; keeps the latest two."""

    def __init__(self, directory: Path | StatePath) -> None:
        self._directory = directory
        self._state: Any = None  # shapes of the last one, for a message
        self._pending: Any = None  # the last save, until it is committed
        self._checkpointer = ocp.training.Checkpointer(
            directory if is_remote(directory) else directory.absolute(),
            save_decision_policy=(
                ocp.training.save_decision_policies.FixedIntervalPolicy(1)
            ),
            preservation_policy=(ocp.training.preservation_policies.LatestN(2)),
            cleanup_tmp_directories=True,
        )

    def latest_step(self) -> int | None:
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def restore(self, step: int, abstract_state: Any) -> Any:
        """Loads the state after `step`, with the shardings of `abstract_state`.

        Raises:
          DamagedError: it cannot be read.
        """
        with _restoring(
            f"{self._directory}: the state of an unfinished run cannot be "
            "restored; delete that folder to start the run again"
        ):
            return self._checkpointer.load(step, abstract_state)

    def save(self, step: int, state: Any) -> None:
        """Starts a save; arrays are copied before this returns.

        Raises:
          NotSaved: this save, or the one before it, failed.
        """
        self._state = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state
        )
        with _saving(self._directory, self._state):
            self._wait()
            self._pending = self._checkpointer.save_async(step, state)

    def save_and_wait(self, step: int, state: Any) -> None:
        """Saves, and returns when the state is on disk.

        Raises:
          NotSaved: this save, or the one before it, failed.
        """
        with _saving(self._directory, state):
            self._wait()
            self._checkpointer.save(step, state, overwrite=True)

    def _wait(self) -> None:
        """Waits for the last save to finish."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> "TrainingCheckpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _saving(self._directory, self._state):
            try:
                self._wait()
            finally:
                self._checkpointer.close()


def _alone() -> contextlib.AbstractContextManager[Any]:
    """An Orbax context in which this process waits for no other process."""
    this = jax.process_index()
    if jax.process_count() == 1:
        return contextlib.nullcontext()
    context = ocp.Context()
    context.multiprocessing.primary_host = this
    context.multiprocessing.active_processes = {this}
    context.multiprocessing.barrier_sync_key_prefix = f"process{this}"
    return context


@contextlib.contextmanager
def _saving(path: Path | StatePath, tree: Any) -> Iterator[None]:
    try:
        yield
    # A full disk is a ValueError of tensorstore or an OSError (measured). Other
    # errors are not documented.
    except Exception as error:
        needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        advice = "; look at the address, your credentials and the network"
        if not is_remote(path):
            free = shutil.disk_usage(_existing(path)).free
            advice = f" and {free:,} bytes are free; make room"
        raise NotSaved(
            f"{path}: could not be saved: {_first_line(error)}. It needs "
            f"about {needed:,} bytes{advice} and rerun the same command"
        ) from error


@contextlib.contextmanager
def _restoring(what: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    # Errors of a damaged store are not documented and depend on the damage
    # (ValueError, KeyError, FileNotFoundError, tensorstore's own).
    except Exception as error:
        raise DamagedError(f"{what} ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def _existing(path: Path | StatePath) -> Path | StatePath:
    """`path`, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())
