"""Saves and loads with Orbax: parameter trees, and training states by step.

Orbax writes to a temporary folder and renames it when it is complete. But it does not
notice flipped bits later, and it lists a step whose commit file is gone (measured with
0.12.8). So only the pool's manifests decide which parameters are used, and a state has
a checksum.
"""

import contextlib
import functools
import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from jaxsim.errors import DamagedError, JaxsimError, UserError
from jaxsim.mesh import to_host
from jaxsim.records import free_bytes

StatePath: TypeAlias = epath.Path  # of training states: local, or in gs://


class NotSaved(JaxsimError):
    """A save failed; what was on disk before is still there."""


def save_params(path: Path, params: Any) -> None:
    """Saves a tree of arrays at `path`, which must not exist yet.

    Every process calls it with the same tree: Orbax compares their paths, even if
    only one process takes part (0.12.8).

    Raises:
      NotSaved: the disk is full, or cannot be written.
    """
    context = ocp.Context()
    # Both take as much memory again as the tree, and trained floats hardly shrink.
    context.memory.deepcopy_host_arrays = False
    context.array.saving.use_compression = False
    with _saving(path, params), context:
        ocp.save(path.absolute(), params)


def load_params(path: Path, shapes: Any) -> Any:
    """The tree at `path` as numpy arrays.

    Args:
      path: as given to `save_params`.
      shapes: the tree of shapes and dtypes that was saved. Orbax would silently
        cast to another dtype.

    Raises:
      DamagedError: the tree is incomplete or unreadable, or has other shapes.
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
    """The folder that `config.train.state_path` names.

    Raises:
      UserError: Orbax cannot write there, or its client is not installed.
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
    # Clients of stores raise whatever their network libraries raise.
    except Exception as error:
        raise UserError(
            f"{what}: cannot create this folder: {_first_line(error)}"
        ) from error
    return folder


def is_remote(path: Path | StatePath) -> bool:
    """Whether a path is in an object store."""
    return "://" in str(path)


def delete(folder: StatePath) -> None:
    """Deletes a folder of states; no error if it does not exist."""
    if is_remote(folder):
        with contextlib.suppress(OSError):
            folder.rmtree()
    else:
        shutil.rmtree(folder, ignore_errors=True)


class TrainingCheckpoints:
    """The states of one unfinished run; keeps the latest two."""

    def __init__(self, directory: Path | StatePath) -> None:
        self._directory = directory
        self._state: Any = None  # shapes of the last state, for a message
        self._pending: Any = None  # the last save, until it is on disk
        self._checkpointer = ocp.training.Checkpointer(
            directory if is_remote(directory) else directory.absolute(),
            save_decision_policy=(
                ocp.training.save_decision_policies.FixedIntervalPolicy(1)
            ),
            preservation_policy=ocp.training.preservation_policies.LatestN(2),
            cleanup_tmp_directories=True,
        )

    def latest_step(self) -> int | None:
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state after `step`, with the shardings of `abstract_state`.

        Raises:
          DamagedError: it cannot be read; if it is deleted, the run starts again.
        """
        with _restoring(
            f"{self._directory}: the state of an unfinished run cannot be "
            "restored; delete that folder to start the run again"
        ):
            expected = np.empty(len(jax.tree.leaves(abstract_state)), np.uint32)
            target = {"state": abstract_state, "checksums": expected}
            loaded = self._checkpointer.load(step, target)
            if (_checksums(loaded["state"]) != loaded["checksums"]).any():
                raise ValueError("it has changed since it was saved")
            return loaded["state"]

    def save(self, step: int, state: Any) -> None:
        """Starts a save, which ends when the next begins or this context is left.

        Arrays are copied before this returns.

        Raises:
          NotSaved: this save, or the one before it, failed.
        """
        self._state = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state
        )
        with _saving(self._directory, self._state):
            self._wait()
            saved = {"state": state, "checksums": _checksums(state)}
            self._pending = self._checkpointer.save_async(step, saved, overwrite=True)

    def _wait(self) -> None:
        """Waits for the last save; this also closes its event loop."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with _saving(self._directory, self._state):
            try:
                self._wait()
            finally:
                self._checkpointer.close()


def _checksums(tree: Any) -> np.ndarray:
    """A checksum of each leaf, uint32; every process calls it."""
    # One after the other: the CPU devices of a process can get stuck in several sums.
    found = [to_host(_checksum(leaf)) for leaf in jax.tree.leaves(tree)]
    return np.array(found, np.uint32)


@jax.jit
def _checksum(leaf: jax.Array) -> jax.Array:
    """The sum, modulo 2**32, of a hash of each 32 bits and their position.

    The hash (MurmurHash3's finalizer) is a bijection, so one changed word always shows.
    """
    kind = jnp.dtype(f"uint{8 * min(4, leaf.dtype.itemsize)}")
    bits = jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32)
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis, size in enumerate(bits.shape):  # elementwise, so no shard is moved
        place = place * size + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    x = bits ^ (place * jnp.uint32(0x9E3779B9))
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(x ^ (x >> 16), dtype=jnp.uint32)


def _alone() -> contextlib.AbstractContextManager[Any]:
    """A context in which loading does not wait for other processes."""
    if jax.process_count() == 1:
        return contextlib.nullcontext()
    this = jax.process_index()
    context = ocp.Context()
    context.multiprocessing.primary_host = this
    context.multiprocessing.active_processes = {this}
    context.multiprocessing.barrier_sync_key_prefix = f"process{this}"
    return context


@contextlib.contextmanager
def _saving(path: Path | StatePath, tree: Any) -> Iterator[None]:
    """Turns errors of saving a tree into `NotSaved`."""
    try:
        yield
    # A full disk is a ValueError of tensorstore, at the wait or at the close, or an
    # OSError (measured); other errors are not documented.
    except Exception as error:
        needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        advice = "; look at the address, your credentials and the network"
        if not is_remote(path):
            advice = f" and {free_bytes(path):,} bytes are free; make room"
        raise NotSaved(
            f"{path}: could not be saved: {_first_line(error)}. It needs "
            f"about {needed:,} bytes{advice} and repeat the same command"
        ) from error


@contextlib.contextmanager
def _restoring(what: str) -> Iterator[None]:
    """Turns errors of loading into `DamagedError`."""
    jax.devices()  # no device is no damage
    try:
        yield
    except MemoryError:
        raise
    # Errors of damaged files are not documented, and differ (ValueError, KeyError,
    # FileNotFoundError, tensorstore's own).
    except Exception as error:
        raise DamagedError(f"{what} ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
