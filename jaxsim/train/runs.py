"""Runs (name, mixture, number of steps, data seed) and their batches."""

import concurrent.futures
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from jaxsim.config import RecipeConfig
from jaxsim.corpus import Corpus
from jaxsim.corpus.names import Labels
from jaxsim.corpus.order import Schedule, schedule, shares
from jaxsim.errors import UserError

# Data seeds; replicate n of a run adds n. Reference runs share no order of rows with
# members or their first replicates: noise of both would be partly the same.
MEMBER_SEED, REFERENCE_SEED = 0, 2

_AHEAD = 2  # batches that are read before they are needed


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of the pool's recipe; `mixture` maps units to token shares."""

    name: str
    kind: str  # 'base', 'member', 'reference' or 'replicate'
    mixture: Mapping[str, float]
    steps: int
    data_seed: int = MEMBER_SEED

    def schedule(self, corpus: Corpus, recipe: RecipeConfig) -> Schedule:
        """The rows of the whole run, with its share of replayed base text."""
        own = self._own_rows(recipe)
        replayed = self.steps * recipe.batch - own
        return schedule(
            [corpus.unit(name) for name in self.mixture],
            list(self.mixture.values()),
            own,
            self.data_seed,
            (corpus.unit(Labels.BASE), replayed) if recipe.replay else None,
        )

    def shares(self, recipe: RecipeConfig) -> dict[str, float]:
        """The token shares that its rows realize; replay does not count."""
        own = self._own_rows(recipe)
        rows_C = shares(list(self.mixture.values()), own)
        return dict(zip(self.mixture, (rows_C / own).tolist(), strict=True))

    def _own_rows(self, recipe: RecipeConfig) -> int:
        if own := recipe.own_rows(self.steps):
            return own
        raise UserError(
            f"config.recipe.replay: of the {self.steps * recipe.batch} rows of "
            f"{title(self.kind, self.name)} it leaves none for the mixture; lower it"
        )


def member_run(unit: str, recipe: RecipeConfig) -> Run:
    """The run that trains the member of one unit."""
    return Run(unit, "member", {unit: 1.0}, recipe.steps)


def reference_run(
    mixture: Mapping[str, float], recipe: RecipeConfig, token_multiplier: float = 1.0
) -> Run:
    """A reference run; its name is a digest of its mixture and steps."""
    return _reference(mixture, recipe.steps_of(token_multiplier))


def _reference(mixture: Mapping[str, float], steps: int) -> Run:
    weights = {name: float(w) for name, w in mixture.items() if w > 0}
    text = json.dumps([sorted(weights.items()), steps])
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    name = Labels.REFERENCE.format(int(digest, 16))
    return Run(name, "reference", weights, steps, REFERENCE_SEED)


def replicate_of(run: Run, number: int = 1) -> Run:
    """The same run with another data seed; `number` counts its replicates."""
    return dataclasses.replace(
        run,
        name=Labels.REPLICATE.format(run.name, number),
        kind="replicate",
        data_seed=run.data_seed + number,
    )


def is_named_right(run: Run, member_steps: int) -> bool:
    """Whether name and kind of a run are those that follow from what it trains on.

    `member_steps` are the steps of a member of the same recipe.
    """
    if "base" in (run.kind, run.name):
        return run.kind == run.name
    runs = [Run(unit, "member", {unit: 1.0}, member_steps) for unit in run.mixture]
    for one in (*runs, _reference(run.mixture, run.steps)):
        number = run.data_seed - one.data_seed
        if run == (replicate_of(one, number) if number > 0 else one):
            return True
    return False


def title(kind: str, name: str) -> str:
    """What messages call a run and its result: 'base model', 'member a', 'run x'."""
    if kind == "base":
        return "base model"
    return f"member {name}" if kind == "member" else f"run {name}"


def label(runs: Sequence[Run]) -> str:
    """'member a', or '4 runs (a, b, c, d)', or '9 runs (a, b ... i)'."""
    if len(runs) == 1:
        return title(runs[0].kind, runs[0].name)
    listed = ", ".join(run.name for run in runs)
    if len(runs) > 4:
        listed = f"{runs[0].name}, {runs[1].name} ... {runs[-1].name}"
    return f"{len(runs)} runs ({listed})"


def batch_of(corpus: Corpus, run: Schedule, rows: slice | range) -> np.ndarray:
    """The tokens of some rows of a schedule [B, L+1], int32."""
    unit_B, row_B = run.unit_R[rows], run.row_R[rows]
    tokens_BL1 = np.empty((len(row_B), corpus.length + 1), np.int32)
    for index in np.unique(unit_B):
        here = unit_B == index
        tokens_BL1[here] = corpus.rows(run.units[index])[row_B[here]]
    return tokens_BL1


def batches(
    tokens: jax.ShapeDtypeStruct,
    corpus: Corpus,
    schedules: Sequence[Schedule],
    first: int,
    steps: int,
    waited: Callable[[float], None],
) -> Iterator[tuple[int, jax.Array]]:
    """Batches of runs that are trained together, on the devices.

    A thread reads batches ahead. A process reads the rows that its devices hold.

    Args:
      tokens: shape and sharding of a batch [G, B, L+1]. If there are fewer than G
        schedules, the last one is repeated.
      corpus: where the rows come from.
      schedules: the rows of each run.
      first, steps: finished steps, and steps of the whole run.
      waited: called with the seconds that training waited for each batch.

    Yields:
      The number of the step, from 1, and its tokens.
    """
    slots, rows, _ = tokens.shape
    filled = [*schedules, *schedules[-1:] * (slots - len(schedules))]

    def read(step: int) -> jax.Array:
        here = range(step * rows, (step + 1) * rows)

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            """The tokens that one device holds."""
            assert index is not None
            runs, part, _ = index
            held = here[part]
            return np.stack([batch_of(corpus, run, held) for run in filled[runs]])

        return jax.make_array_from_callback(tokens.shape, tokens.sharding, part)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        ahead = [
            pool.submit(read, step) for step in range(first, min(first + _AHEAD, steps))
        ]
        for step in range(first, steps):
            begin = time.monotonic()
            tokens_GBL1 = ahead.pop(0).result()
            waited(time.monotonic() - begin)
            if step + _AHEAD < steps:
                ahead.append(pool.submit(read, step + _AHEAD))
            yield step + 1, tokens_GBL1
