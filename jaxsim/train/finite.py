"""What stops a run: a loss or a gradient that is not finite."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxsim.errors import JaxsimError
from jaxsim.model import LanguageModel
from jaxsim.train.runs import Run


class NonFiniteError(JaxsimError):
    """The loss or a gradient is not finite; nothing of the run is admitted."""


def check(
    run: Run,
    number: int,
    units: list[str],
    sums: Mapping[str, Any],
    model: LanguageModel,
) -> dict[str, float]:
    """Means of the sums of a step.

    Raises:
      NonFiniteError: names run, step, units and leaf.
    """
    loss = float(sums["nll"]) / float(sums["tokens"])
    norm = float(sums["gradient_norm"])
    if np.isfinite(loss) and np.isfinite(norm):
        return {"loss": loss, "gradient_norm": norm}
    raise NonFiniteError(
        f"{run.kind} {run.name}: loss {loss} and gradient norm {norm} at "
        f"step {number}, on rows of {', '.join(sorted(set(units)))}; "
        f"{_first(sums, model)}. Nothing is admitted. "
        "Lower the learning rate, or look at the text of that unit"
    )


def _first(sums: Mapping[str, Any], model: LanguageModel) -> str:
    """Parameters before gradients: one bad leaf spoils all of those."""
    leaves = jax.tree_util.tree_leaves_with_path(model.shapes())
    for what in ("parameter", "gradient"):
        for (path, _), ok in zip(leaves, sums[f"finite_{what}"], strict=True):
            if not ok:
                name = "/".join(str(key.key) for key in path)
                return f"leaf {name} has a {what} that is not finite"
    return "every parameter and every gradient is finite"
