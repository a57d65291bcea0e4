"""The meshes, and the one table from logical axes to mesh axes.

Auto axes, spelled out: `jax.make_mesh` has made explicit ones by default since
JAX 0.9, and Linen modules do not annotate their outputs for those.
"""

from typing import Any

import jax
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


def training_mesh(data_axis: int, model_axis: int) -> Mesh:
    """All devices as `(data, model)`; a `data_axis` of -1 takes the rest.

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    if data_axis == -1 and devices % model_axis == 0:
        data_axis = devices // model_axis
    if data_axis * model_axis != devices:
        raise UserError(
            f"config.train: data_axis={data_axis} times model_axis="
            f"{model_axis} is not the number of devices, {devices}"
        )
    return jax.make_mesh(
        (data_axis, model_axis),
        ("data", "model"),
        axis_types=(AxisType.Auto, AxisType.Auto),
    )


def scoring_mesh(model_axis: int = 1) -> Mesh:
    """All devices as `(mixture, model)`.

    Along `mixture` each scores its own share of the mixtures; along `model`
    they share the widths of one model.

    Raises:
      UserError: `model_axis` does not divide the number of devices.
    """
    devices = jax.device_count()
    if devices % model_axis:
        raise UserError(
            f"config.score: model_axis={model_axis} does not divide the "
            f"number of devices, {devices}"
        )
    return jax.make_mesh(
        (devices // model_axis, model_axis),
        ("mixture", "model"),
        axis_types=(AxisType.Auto, AxisType.Auto),
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


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
