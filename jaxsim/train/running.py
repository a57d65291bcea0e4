"""A run while it is trained: its losses, its metrics file, its error."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsim.corpus.order import Schedule
from jaxsim.errors import JaxsimError
from jaxsim.log import MetricsWriter
from jaxsim.model import LanguageModel
from jaxsim.train.runs import Run, title


class NonFiniteError(JaxsimError):
    """The loss or a gradient is not finite; nothing of the run is admitted."""


@dataclasses.dataclass
class Running:
    """One of the runs that are trained together.

    Once it has an error, its sums are ignored and nothing more is written.

    Attributes:
      run: what is trained.
      schedule: the rows of the whole run.
      writer: appends to its metrics file; None if there is none.
      last: loss and gradient norm of the last step that was checked.
      error: why the run stopped; None while it continues.
    """

    run: Run
    schedule: Schedule
    writer: MetricsWriter | None = None
    last: dict[str, float] = dataclasses.field(default_factory=dict)
    error: NonFiniteError | None = None

    def open(
        self,
        group: Sequence[Run],
        metrics: Path | None,
        step: int,
        stack: contextlib.ExitStack,
    ) -> None:
        """Continues after `step`; a run that had an error then still has it."""
        if metrics is None:
            return
        header: dict[str, Any] = {"run": self.run.name}
        if len(group) > 1:
            header["group"] = [each.name for each in group]
        self.writer = stack.enter_context(MetricsWriter(metrics, header, step=step))
        if message := self.writer.kept.get("error"):
            self.error = NonFiniteError(message)

    def look(
        self, number: int, rows: int, sums: Mapping[str, Any], model: LanguageModel
    ) -> None:
        """Checks and keeps the results of step `number`, from 1.

        Args:
          number: of the step.
          rows: of a batch.
          sums: the metrics of `train_step`, on the host.
          model: for the names of leaves.
        """
        if self.error is not None:
            return
        loss = float(sums["nll"]) / float(sums["tokens"])
        norm = float(sums["gradient_norm"])
        if np.isfinite(loss) and np.isfinite(norm):
            self.last = {"loss": loss, "gradient_norm": norm}
            return
        here = self.schedule.unit_R[(number - 1) * rows : number * rows]
        units = sorted({self.schedule.units[unit] for unit in here})
        self.error = NonFiniteError(
            f"{title(self.run.kind, self.run.name)}: loss {loss} and gradient norm "
            f"{norm} at step {number}, on rows of {', '.join(units)}; "
            f"{_first_leaf(sums, model)}. Nothing is admitted. "
            "Lower the learning rate, or check the text of that unit"
        )
        # In the metrics file too: a checkpoint that is saved later holds this
        # run's non-finite values.
        if self.writer is not None:
            self.writer.write(number, {"loss": None, "error": str(self.error)})


def _first_leaf(sums: Mapping[str, Any], model: LanguageModel) -> str:
    """The first leaf that is not finite; parameters first, as they spoil gradients."""
    leaves = jax.tree_util.tree_leaves_with_path(model.shapes())
    for what in ("parameter", "gradient"):
        for (path, _), ok in zip(leaves, sums[f"finite_{what}"], strict=True):
            if not ok:
                name = "/".join(str(key.key) for key in path)
                return f"leaf {name} has a {what} that is not finite"
    return "every parameter and every gradient is finite"
