"""What the runs of a pool and their scoring cost, before anything is trained.

The unit is the forward pass of a token: training costs three, scoring one.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from jaxsim.config import Config
from jaxsim.corpus import Corpus
from jaxsim.corpus.split import DEV, SPLITS, TEST
from jaxsim.log import say, show_table
from jaxsim.model import LanguageModel
from jaxsim.scoring.predicted import BEST
from jaxsim.scoring.quadratic import CHECKS
from jaxsim.scoring.table import count_rows
from jaxsim.validation.runs import held_out_runs, largest_subset, needs_best

# Tokens and windows of each domain's splits.
Evaluation = Mapping[str, Mapping[str, tuple[int, int]]]

_TOKENS = 2**20  # that are scored if there is no text yet
_MERGES = 10_000  # that a closed form is compared with
_TRAINED = 3  # a backward pass costs two forward passes
_GRADIENT = 5  # of all domains, in forward passes: benchmarks/gradient.py measured 4.8
# More scoring than this many times the training is worth a warning, but not where all
# of it takes about a minute on two CPU cores.
_MUCH, _LITTLE_FLOPS = 10, 5e12


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of all models of one kind: their number, and tokens in total."""

    name: str
    count: int
    tokens: float
    passes: int  # forward passes for each token

    @property
    def work(self) -> float:
        """Forward passes of a token, in total."""
        return self.passes * self.tokens


def training_costs(config: Config, members: int) -> list[Cost]:
    """The base model, if it is trained here, and all runs of the pool."""
    length, validate = config.model.length, config.validate
    base = config.base.steps * config.base.batch * length
    unit = config.recipe.steps * config.recipe.batch * length
    # With budget 'sum' a reference run on n members is n units long, and n is drawn
    # uniformly from 2 to the largest.
    units = validate.token_multiplier
    if validate.budget == "sum":
        units = (2 + largest_subset(validate, members)) / 2
    runs = held_out_runs(validate, members) + validate.calibration_runs
    replicates = validate.replicates + validate.member_replicates
    repeated = validate.replicates * units + validate.member_replicates
    return [
        Cost(name, count, tokens, _TRAINED)
        for name, count, tokens in (
            ("base", int(not config.base.path), base),
            ("members", members, members * unit),
            ("reference runs", runs, runs * units * unit),
            ("replicates", replicates, repeated * unit),
        )
        if count
    ]


def scoring_costs(
    config: Config, members: int, evaluation: Evaluation | None
) -> list[Cost]:
    """All that `score`, `validate` and `search` score, about.

    Without text it is what a large table and a search take, as a measure.
    """
    validate, search, spec = config.validate, config.search, config.score.mixtures
    descends = search.method == "descend" and members > 1
    evaluations = search.evaluations if descends else 0
    if evaluation is None:
        some = [
            Cost("scoring base and members", members + 1, (members + 1) * _TOKENS, 1),
            *_closed_form(_TOKENS),
            Cost("scoring of the search", evaluations, evaluations * _TOKENS, 1),
        ]
        return [cost for cost in some if cost.count]

    def tokens(windows: int, *splits: str) -> float:
        """Of the splits of all domains, at most so many windows of each."""
        return sum(
            found * (min(1, windows / there) if windows and there else 1)
            for domain in evaluation.values()
            for found, there in (domain[split] for split in splits)
        )

    on_table = tokens(config.score.windows, DEV)
    both, dev = tokens(validate.windows, *SPLITS), tokens(validate.windows, DEV)
    # Half of these models are the runs, and half the merges beside them.
    held_out = held_out_runs(validate, members)
    # From replicates of all members, beside their own losses.
    replicated = held_out and validate.member_replicates >= members
    again = held_out + members if replicated else 0
    gradient = _GRADIENT if needs_best(validate, members) else 0
    # The base, the members, and the uniform and proportional merges.
    standard = members + 3
    rows = count_rows(spec, members) or 0 if spec else 0
    predicted = rows > config.score.merges
    table = (f"the best of {spec}", BEST) if predicted else (spec, rows)
    costs = [
        Cost(f"scoring {name}", count, count * each, 1)
        for name, count, each in (
            ("standard mixtures", standard, tokens(0, *SPLITS)),
            (*table, on_table),
            ("reference runs", 2 * held_out, both),
            ("the same from replicates", again, tokens(validate.windows, TEST)),
            ("calibration runs", 2 * validate.calibration_runs, dev),
            ("candidates of held-out runs", gradient, on_table),
            ("of the search, on all domains", evaluations, tokens(search.windows, DEV)),
        )
        if count
    ]
    if members > 1:
        # At most: of domains beside the target, it takes config.score.windows.
        each, count = tokens(0, TEST), _GRADIENT + CHECKS
        costs.append(Cost("the answer's closed form, on test", count, count * each, 1))
    return costs + (_closed_form(on_table) if predicted else [])


def _closed_form(tokens: float) -> list[Cost]:
    """What a table in closed form takes, if the members are scored."""
    return [
        Cost("a closed form's gradient", 1, tokens, _GRADIENT),
        Cost("a closed form's checks", CHECKS, CHECKS * tokens, 1),
    ]


def closed_form_sentence(members: int) -> str:
    """What very many mixtures cost, in closed form and merged."""
    first, then = members + 1, round(sum(cost.work for cost in _closed_form(1)))
    return (
        f"{_MERGES:,} mixtures and more, predicted in closed form: {first + then} "
        f"forward passes over the text that is scored ({first} base and members, "
        f"{_GRADIENT} for a gradient, {CHECKS} checks), {then} if the members are "
        f"scored; the best of them are merged, {BEST} more. To merge {_MERGES:,} would "
        f"take {_MERGES:,} passes"
    )


def evaluation_of(corpus: Corpus) -> Evaluation:
    """The tokens and windows of a prepared corpus; prompts of tasks count, too."""
    found = {}
    for name, domain in corpus.domains.items():
        tokens = domain.tokens
        if domain.tasks:
            windows = {split: corpus.evaluation(name, split) for split in SPLITS}
            tokens = {split: int(w.length_R.sum()) for split, w in windows.items()}
        found[name] = {
            split: (tokens[split], domain.windows[split]) for split in SPLITS
        }
    return found


def show_costs(
    config: Config, members: int, vocabulary: int, evaluation: Evaluation
) -> None:
    """Prints what training and scoring cost; warns of much scoring."""
    training = training_costs(config, members)
    scoring = scoring_costs(config, members, evaluation)
    trained = _work(training)

    def rows() -> Iterator[tuple[str, str, str, str]]:
        for costs, total in ((training, "all training"), (scoring, "all scoring")):
            for cost in costs:
                each = f"{cost.tokens / cost.count:,.0f}"
                yield cost.name, f"{cost.count:,}", each, f"{cost.work / trained:.3g}"
            yield total, "", "", f"{_work(costs) / trained:,.3g}"

    show_table(
        "cost",
        ("what", "models", "tokens each", "times all training"),
        rows(),
        "A token that is trained on costs as much as three that are scored.",
    )
    flops = LanguageModel(config.model, vocabulary).forward_flops(1)
    if warning := warning_of_scoring(training, scoring, flops):
        say(warning)


def warning_of_scoring(
    training: Sequence[Cost], scoring: Sequence[Cost], forward: float
) -> str:
    """A warning, if scoring outweighs training by far.

    Args:
      training: all training.
      scoring: all scoring.
      forward: FLOPs of the forward pass of a token.
    """
    trained, scored = _work(training), _work(scoring)
    if scored <= _MUCH * trained or forward * scored <= _LITTLE_FLOPS:
        return ""
    most = max(scoring, key=lambda cost: cost.work)
    return (
        f"WARNING: scoring costs {scored / trained:,.0f} times as much as all "
        f"training; most of it is {most.name}, {most.count:,} times "
        f"{most.tokens / most.count:,.0f} tokens. Lower "
        "config.corpus.evaluation_tokens (of each split of a domain) or "
        "config.corpus.evaluation_windows (of each document); or, for each domain, "
        "config.score.windows, config.search.windows and config.validate.windows; or "
        "ask for fewer mixtures with config.score.mixtures and "
        "config.search.evaluations"
    )


def _work(costs: Sequence[Cost]) -> float:
    return sum(cost.work for cost in costs)
