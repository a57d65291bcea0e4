"""What is to be trained: a ratio, a number of steps, an order, a name."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from jaxsim.config import RecipeConfig
from jaxsim.corpus import Corpus
from jaxsim.corpus.order import Schedule, schedule


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of the pool's recipe; `ratio` maps units to token shares."""

    name: str
    kind: str  # 'seed', 'member', 'truth' or 'repeat'
    ratio: Mapping[str, float]
    steps: int
    order: int = 0

    def schedule(self, corpus: Corpus, recipe: RecipeConfig) -> Schedule:
        """The rows of the whole run, the anchor's among them."""
        anchor = (corpus.seed, recipe.anchor) if recipe.anchor else None
        return schedule(
            [corpus.unit(name) for name in self.ratio],
            list(self.ratio.values()),
            self.steps * recipe.batch,
            self.order,
            anchor,
        )


def member_run(unit: str, recipe: RecipeConfig) -> Run:
    """The run on one base unit."""
    return Run(unit, "member", {unit: 1.0}, recipe.steps)


def truth_run(
    ratio: Mapping[str, float], recipe: RecipeConfig, horizon: float = 1.0
) -> Run:
    """A run on a ratio; the name is a digest of the ratio and its length."""
    weights = {name: float(w) for name, w in ratio.items() if w > 0}
    steps = max(1, round(recipe.steps * horizon))
    text = json.dumps([sorted(weights.items()), steps])
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return Run(f"truth-{digest}", "truth", weights, steps)


def repeat_of(run: Run, order: int = 1) -> Run:
    """The same run with another order of the data."""
    return dataclasses.replace(
        run, name=f"{run.name}.order{order}", kind="repeat", order=order
    )


def label(runs: Sequence[Run]) -> str:
    """'member a', or '4 runs (a, b, c, d)', or '9 runs (a, b ... i)'."""
    if len(runs) == 1:
        return f"{runs[0].kind} {runs[0].name}"
    names = [run.name for run in runs]
    listed = ", ".join(names)
    if len(names) > 4:
        listed = f"{names[0]}, {names[1]} ... {names[-1]}"
    return f"{len(runs)} runs ({listed})"


def batch_of(
    corpus: Corpus, run: Schedule, rows: slice
) -> tuple[np.ndarray, list[str]]:
    """Rows [B, L+1] int32 of a schedule, and the unit of each."""
    unit_B, row_B = run.unit_R[rows], run.row_R[rows]
    tokens_BL1 = np.empty((len(row_B), corpus.length + 1), np.int32)
    for index in np.unique(unit_B):
        here = unit_B == index
        tokens_BL1[here] = corpus.rows(run.units[index])[row_B[here]]
    return tokens_BL1, [run.units[index] for index in unit_B]
