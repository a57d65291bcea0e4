"""The meshes, and the one table from logical axes to mesh axes.

Auto axes, spelled out: `jax.make_mesh` has made explicit ones by default since
JAX 0.9, and Linen modules do not annotate their outputs for those.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxsim.errors import UserError

# Fully sharded over `data`; the widths that heads and the MLP split over
# `model` are tensor parallel.
RULES: dict[str, str | None] = {
    "layers": None,
    "embed": "data",
    "embed_vector": None,
    "vocab": "model",
    "heads": "model",
    "kv_heads": "model",
    "mlp": "model",
    "halves": None,
}


def training_mesh(
    data_axis: int,
    model_axis: int,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Devices, by default all, as `(data, model)`; -1 takes the rest.

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    if data_axis == -1 and count % model_axis == 0:
        data_axis = count // model_axis
    if data_axis * model_axis != count:
        raise UserError(
            f"config.train: data_axis={data_axis} times model_axis="
            f"{model_axis} is not the number of devices, {count}"
        )
    return jax.make_mesh(
        (data_axis, model_axis),
        ("data", "model"),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices,
    )


def member_mesh(mesh: Mesh, members: int) -> Mesh:
    """Devices of `mesh` side by side, each with as many of the members.

    As many devices as divide their number: each member is whole on one.
    """
    devices = mesh.devices.flatten()
    used = max(n for n in range(1, len(devices) + 1) if members % n == 0)
    return Mesh(devices[:used], ("member",), axis_types=(AxisType.Auto,))


def scoring_mesh(
    model_axis: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Devices, by default all, as `(mixture, model)`.

    Along `mixture` each scores its own share of the mixtures; along `model`
    they share the widths of the pool, and the windows of a mixture.

    Raises:
      UserError: `model_axis` does not divide the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    if count % model_axis:
        raise UserError(
            f"config.score: model_axis={model_axis} does not divide the "
            f"number of devices, {count}"
        )
    return jax.make_mesh(
        (count // model_axis, model_axis),
        ("mixture", "model"),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def blocks_sharding(mesh: Mesh) -> NamedSharding:
    """Blocks of windows over the devices that share a mixture's model."""
    return NamedSharding(mesh, PartitionSpec("model"))


def to_devices(tree: Any, shardings: Any) -> Any:
    """Arrays of the host, the same in every process, where they belong."""

    def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array):
            return jax.device_put(leaf, sharding)
        return jax.make_array_from_callback(
            leaf.shape, sharding, lambda index: leaf[index]
        )

    return jax.tree.map(place, tree, shardings)


def to_host(tree: Any, mesh: Mesh) -> Any:
    """Whole arrays as numpy's, also where other processes hold parts.

    Every process calls it. One leaf after the other is on a device as a whole;
    leaves that are so already wait for no later step.
    """

    def is_here(leaf: jax.Array) -> bool:
        return leaf.is_fully_addressable or leaf.is_fully_replicated

    def fetch(leaf: jax.Array) -> np.ndarray:
        if not is_here(leaf):
            leaf = jax.jit(lambda a: a, out_shardings=replicated(mesh))(leaf)
        return np.asarray(leaf)

    if all(map(is_here, jax.tree.leaves(tree))):
        return jax.device_get(tree)
    return jax.tree.map(fetch, tree)


def rows_here(shape: tuple[int, ...], sharding: NamedSharding) -> slice:
    """The rows between the first and the last that devices here hold."""
    here = sharding.addressable_devices_indices_map(shape).values()
    rows = [index[0].indices(shape[0]) for index in here if index]
    return slice(min(r[0] for r in rows), max(r[1] for r in rows))


def rows_to_devices(
    rows: np.ndarray,
    start: int,
    shape: tuple[int, ...],
    sharding: NamedSharding,
) -> jax.Array:
    """A global array from the rows of `rows_here`, which begin at `start`."""

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # only its type allows that
        first, last, _ = index[0].indices(shape[0])
        return rows[(slice(first - start, last - start), *index[1:])]

    return jax.make_array_from_callback(shape, sharding, part)


def parameter_shardings(
    shapes: Any, axes: Any, mesh: Mesh, group: str = "train"
) -> Any:
    """A tree of shardings like the parameters, from `RULES`.

    Args:
      shapes: the tree of shapes and dtypes.
      axes: the same tree of tuples of logical axis names.
      mesh: of training or of scoring; axes that it does not have divide
        nothing.
      group: of the config that sets the mesh, for messages.

    Raises:
      UserError: a dimension does not divide over its mesh axis.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, names: _sharding(
            path, leaf.shape, names, mesh, group
        ),
        shapes,
        axes,
    )


def _sharding(
    path: tuple[Any, ...],
    shape: tuple[int, ...],
    names: tuple[str, ...],
    mesh: Mesh,
    group: str,
) -> NamedSharding:
    rules = [RULES[name] for name in names]
    axes = [axis if axis in mesh.shape else None for axis in rules]
    used = [axis for axis in axes if axis]
    if len(used) != len(set(used)) or len(axes) != len(shape):
        raise ValueError(f"axes {names} of {path} collide on the mesh: {axes}")
    for size, name, axis in zip(shape, names, axes, strict=True):
        if axis and size % mesh.shape[axis]:
            raise UserError(
                f"parameter {jax.tree_util.keystr(path)}: its axis {name} of "
                f"{size} does not divide over the {mesh.shape[axis]} devices "
                f"of mesh axis {axis!r}; change config.{group}.{axis}_axis"
                + (", or model.vocab_multiple" if name == "vocab" else "")
            )
    return NamedSharding(mesh, PartitionSpec(*axes))
