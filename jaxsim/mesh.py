"""Device meshes, and the table from logical axes of parameters to mesh axes.

Axis types are Auto: since JAX 0.9 `jax.make_mesh` makes explicit axes by default, and
Linen modules do not annotate their outputs for those.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxsim.devices import check_settings
from jaxsim.errors import UserError

# Parameters are fully sharded over `data`. Vocabulary, heads and MLP width are
# tensor parallel over `model`.
RULES: dict[str, str | None] = {
    "layers": None,
    "embed": "data",
    "embed_vector": None,
    "positions": None,
    "vocab": "model",
    "heads": "model",
    "kv_heads": "model",
    "head_vector": None,
    "mlp": "model",
    "gate": None,
}


def training_mesh(
    data_axis: int,
    model_axis: int,
    devices: Sequence[jax.Device] | None = None,
    runs: int = 1,
) -> Mesh:
    """The mesh `(run, data, model)` of `devices`, by default all of them.

    Nothing passes between devices along `run`, which train different runs. Rows of a
    batch are divided along `data`, and widths of the model along `model`.

    Args:
      data_axis: devices along `data` at least; -1: 1.
      model_axis: devices along `model`.
      devices: as many of them as divide `runs` go to `run`, the others to `data`.
      runs: number of runs that are trained together.

    Raises:
      UserError: the axes do not divide the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    each = model_axis * (1 if data_axis == -1 else data_axis)
    if each < 1 or count % each:
        raise UserError(
            f"config.train.data_axis={data_axis} times config.train.model_axis="
            f"{model_axis} does not divide the number of devices, {count}"
        )
    run = math.gcd(runs, count // each)
    data = count // (run * model_axis)
    return _mesh(devices, run=run, data=data, model=model_axis)


def scoring_mesh(
    model_axis: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The mesh `(mixture, model)` of `devices`, by default all of them.

    Mixtures are divided along `mixture`. The pool's tensor-parallel dimensions and
    the windows of a mixture are divided along `model`.

    Raises:
      UserError: `model_axis` does not divide the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    if count % model_axis:
        raise UserError(
            f"config.score.model_axis={model_axis} does not divide the "
            f"number of devices, {count}"
        )
    return _mesh(devices, mixture=count // model_axis, model=model_axis)


def _mesh(devices: Sequence[jax.Device] | None, **axes: int) -> Mesh:
    check_settings()
    types = (AxisType.Auto,) * len(axes)
    return jax.make_mesh(
        tuple(axes.values()), tuple(axes), axis_types=types, devices=devices
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def over_data(x_BLD: jax.Array) -> jax.Array:
    """Divides the rows B of hidden states along `data`, where a training mesh is set.

    Left alone, the compiler may divide hidden states by width, like parameters, and
    every device computes all rows.
    """
    if "data" not in jax.sharding.get_abstract_mesh().axis_names:
        return x_BLD
    return jax.lax.with_sharding_constraint(x_BLD, PartitionSpec("data"))


def data_devices() -> int:
    """The size of `data` in the mesh that is set; 1 if none is."""
    return int(jax.sharding.get_abstract_mesh().shape.get("data", 1))


def to_devices(tree: Any, shardings: Any) -> Any:
    """Puts host arrays, equal in every process, on the devices.

    `jax.device_put` would first compare them over processes, one collective for each.
    """

    def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array):
            return jax.device_put(leaf, sharding)
        return jax.make_array_from_callback(
            leaf.shape, sharding, lambda index: leaf[index]
        )

    return jax.tree.map(place, tree, shardings)


def to_host(tree: Any) -> Any:
    """Fetches whole arrays as numpy arrays; every process calls it.

    Arrays that are spread over processes are replicated first, one at a time. Others
    need no collective, so they do not wait for a later step.
    """

    def whole(leaf: jax.Array) -> Any:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return leaf
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.device_get(jax.tree.map(whole, tree))


def parameter_shardings(
    shapes: Any, axes: Any, mesh: Mesh, group: str = "train"
) -> Any:
    """The sharding of each parameter, by `RULES`.

    Args:
      shapes: a tree of shapes and dtypes.
      axes: the same tree, with a tuple of logical axis names for each leaf.
      mesh: a training or scoring mesh; rules for axes that it lacks are ignored.
      group: the config group that sets the mesh, for messages.

    Raises:
      UserError: a dimension does not divide over its mesh axis.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, names: _sharding(path, leaf.shape, names, mesh, group),
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
                + (", or config.model.vocab_rows" if name == "vocab" else "")
            )
    return NamedSharding(mesh, PartitionSpec(*axes))


def varying(leaf: jax.Array, others: Sequence[jax.Array]) -> jax.Array:
    """The same values, which may now differ between devices as `others` do."""
    axes = set[str]().union(*map(_axes, others))
    missing = tuple(axes - _axes(leaf))
    return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf


def _axes(leaf: jax.Array) -> frozenset[str]:
    """The mesh axes along which the values on devices may differ."""
    axes: frozenset[str] = jax.typeof(leaf).manual_axis_type.varying
    return axes
