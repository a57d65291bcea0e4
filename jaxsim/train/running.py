"""One run while it is trained: its losses, its file, and why it stopped."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxsim.log import MetricsWriter
from jaxsim.model import LanguageModel
from jaxsim.train.finite import NonFiniteError, check
from jaxsim.train.runs import Run


@dataclasses.dataclass
class Running:
    """A run of a group. Once it has an error it is neither read nor written.

    Attributes:
      writer: of its metrics; None where nobody wants them.
      last: loss and gradient norm of the last step that was looked at.
    """

    run: Run
    writer: MetricsWriter | None
    last: dict[str, float] = dataclasses.field(default_factory=dict)
    error: NonFiniteError | None = None

    @classmethod
    def opened(
        cls,
        run: Run,
        group: Sequence[Run],
        metrics: Path | None,
        step: int,
        stack: contextlib.ExitStack,
    ) -> "Running":
        """As of `step`; a run that had stopped before stays stopped."""
        if metrics is None:
            return cls(run, None)
        header: dict[str, Any] = {"run": run.name}
        if len(group) > 1:
            header["group"] = [each.name for each in group]
        writer = stack.enter_context(MetricsWriter(metrics, header, step=step))
        said = writer.kept.get("error")
        return cls(run, writer, error=NonFiniteError(said) if said else None)

    def look(
        self,
        number: int,
        units: list[str],
        sums: Mapping[str, Any],
        model: LanguageModel,
    ) -> None:
        """Takes note of the sums of step `number`."""
        if self.error is not None:
            return
        try:
            self.last = check(self.run, number, units, sums, model)
        except NonFiniteError as error:
            self.error = error
            # Kept with the metrics: a state that is committed later holds
            # values of this run that are not finite.
            if self.writer is not None:
                self.writer.write(number, {"loss": None, "error": str(error)})

    def write(self, number: int, row: Mapping[str, float]) -> None:
        if self.writer is not None:
            self.writer.write(number, {**row, **self.last})
