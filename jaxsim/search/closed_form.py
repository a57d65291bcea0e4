"""The predicted loss of every domain as a function of the weights, for other programs.

It is what the default predictor gives: the closed form of merges (see
`jaxsim.scoring.quadratic`), with the calibration that the search used, on test text.
The report's explorer and `jaxsim.open(...).predict` evaluate it; nothing needs a model.
"""

import dataclasses
from typing import Annotated, Any, Literal, TypedDict

import numpy as np

from jaxsim import records
from jaxsim.corpus.names import Labels
from jaxsim.records import Basis
from jaxsim.scoring.quadratic import Misfit, convexity
from jaxsim.scoring.scores import bits_of
from jaxsim.scoring.table import Mixtures, check_mixtures, mixture_key
from jaxsim.search.gains import rivals
from jaxsim.search.objective import Objective, target_weights
from jaxsim.search.problem import Form, Problem
from jaxsim.search.result import CLOSED_FORM, SearchResult, is_single

_TIED = 5  # mixtures that tie, of different groups, among the presets


class Preset(TypedDict):
    """A mixture whose merge was scored."""

    name: str  # of its row in the search, or of the standard mixture
    weights: dict[str, float]
    bits: list[float]  # [D] of the merge, calibrated


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClosedForm(records.Stored):
    """The predicted loss of every domain on test text; see `Form`.

    Attributes:
      members, domains: names of the C and D columns; damaged members and domains
        without test text are left out.
      in_pool: whether a domain is.
      base: bits per byte of the base model.
      residual: root mean square of closed form minus real merges, by domain; on random
        merges or on the presets, whichever is larger.
      checks: how many random merges there were.
      target: weights of the domains in each target, by name of the target.
      weights: of the targets in the objective.
      kind: see `jaxsim.search.objective.Objective`.
      presets: the answer first, then the standard mixtures.
      reference: the preset that gains are counted against.
      most: weight of a member above which the planned run reads its text more often
        than the member did; None without a planned run.
      refusal: why the closed form does not stand for merges, a clause; '' if it does.
      calibrated: whether reference runs corrected the domains of the objective.
    """

    FILE = f"search/{CLOSED_FORM}"
    ADVICE = "run `jaxsim search` again"

    members: list[str]
    domains: list[str]
    in_pool: list[bool]
    constant: list[float]
    linear: list[list[float]]
    curve: list[list[list[float]]]
    base: list[float]
    residual: list[float]
    checks: int
    target: dict[str, dict[str, float]]
    weights: dict[str, float]
    kind: Literal["mean", "worst"]
    presets: list[Annotated[dict[str, Any], Preset]]
    reference: str
    most: list[float | None]
    refusal: str
    calibrated: bool
    basis: Basis

    def check_parts(self) -> None:
        """Raises a `UserError` if the fields do not fit together; see `records`."""
        c, d = len(self.members), len(self.domains)
        for key, shape in (
            ("constant", [d]), ("linear", [d, c]), ("curve", [d, c, c]), ("base", [d]),
            ("residual", [d]), ("in_pool", [d]), ("most", [c]),
        ):  # fmt: skip
            records.need_shape(getattr(self, key), shape, key)
        names = [preset["name"] for preset in self.presets]
        check_mixtures(self.members, names, self.preset_MC.tolist())
        for preset in self.presets:
            records.need_shape(preset["bits"], [d], f"presets.{preset['name']}.bits")
        records.need(self.reference in names, "a preset", self.reference, "reference")
        records.need_names(self.target, self.weights, "target")

    def belongs_to(self, found: SearchResult) -> bool:
        """Whether it was made with this search: pool, objective and answer."""
        best = self.presets[0]["weights"]
        same = found.basis == self.basis and found.objective == self.kind
        return (
            same
            and list(found.named) == list(self.target)
            and (best == found.best["weights"])
        )

    @property
    def preset_MC(self) -> np.ndarray:
        """The weights of the presets."""
        rows = [[p["weights"].get(n, 0.0) for n in self.members] for p in self.presets]
        return np.array(rows)

    @property
    def form(self) -> Form:
        return Form(*map(np.array, (self.constant, self.linear, self.curve)))

    @property
    def objective(self) -> Objective:
        """The search's objective, without limits."""
        none = np.zeros((0, len(self.domains)))
        weights_T = np.array([self.weights[name] for name in self.target])
        return Objective(
            tuple(self.domains),
            np.array(
                [[p.get(n, 0.0) for n in self.domains] for p in self.target.values()]
            ),
            weights_T / weights_T.sum(),
            self.kind,
            np.array(self.base),
            none,
            np.zeros(0),
        )

    def bits(self, w_MC: np.ndarray) -> np.ndarray:
        """Bits per byte of mixtures [M, D]; weights in the order of `members`."""
        return self.form.bits(np.asarray(w_MC, float))

    def gain(self, bits_MD: np.ndarray) -> np.ndarray:
        """[M] share by which the objective is lower than that of `reference`."""
        names = [preset["name"] for preset in self.presets]
        reference_1D = np.array([self.presets[names.index(self.reference)]["bits"]])
        value = self.objective.value
        return np.asarray(1 - value(bits_MD) / value(reference_1D))

    def next_percent(self, w_C: np.ndarray) -> np.ndarray:
        """[C] gain in the objective's bits if 1 % of the tokens goes to a member.

        It is taken from all in proportion; positive is better. To first order.
        """
        form = self.form
        slope_DC = form.linear_DC - form.curve_DCC @ w_C / 2
        pieces = self.objective.pieces(self.bits(w_C[None])[0], slope_DC)
        slope_C = pieces.slope_PC[int(pieces.value_P.argmax())]
        return np.asarray(-0.01 * (slope_C - slope_C @ w_C))


def closed_form(problem: Problem, found: SearchResult) -> ClosedForm | None:
    """Fits it, and compares it with random merges.

    None for a pool of one member, or if the proportional mixture has a damaged one.

    Args:
      problem: what was searched.
      found: the result.
    """
    scorer, correction = problem.scorer, problem.correction
    presets = _presets(problem, found)
    if scorer.alone or Labels.PROPORTIONAL not in presets.names:
        return None
    e, rows = scorer.evaluation, test_windows(problem)
    bytes_D = e.sums(e.bytes_R[rows], rows)
    forms = (Form.of(scorer.quadratic(rows, p), bytes_D) for p in ("merge", "ensemble"))
    merge, ensemble = forms
    form = merge
    if correction is not None:
        # Whether it helps was tested for the objective alone.
        needed_D = problem.objective.needed_D
        pairs = zip(correction.closed(merge, ensemble), merge, strict=True)
        form = Form(
            *(
                np.where(needed_D.reshape(-1, *[1] * (new.ndim - 1)), new, old)
                for new, old in pairs
            )
        )
    checks = scorer.checks()
    real_MD, preset_MD = (
        trained_bits(problem, table, rows) for table in (checks, presets)
    )
    off_MD = form.bits(checks.w_MC) - real_MD
    at_presets_MD = form.bits(presets.w_MC) - preset_MD
    residual_D = np.maximum(
        *(np.sqrt(np.mean(x_MD**2, axis=0)) for x_MD in (off_MD, at_presets_MD))
    )
    goal = problem.objective_on(rows)
    # Merges are nearly convex; what a calibration bends does not count.
    bent_CC = -np.tensordot(goal.weights_D, merge.curve_DCC, 1)
    damaged = scorer.stack.damaged
    sound = np.array([c for c, n in enumerate(scorer.members) if n not in damaged], int)
    misfit = Misfit.of(
        goal.value(form.bits(checks.w_MC)),
        goal.value(real_MD),
        convexity(bent_CC[np.ix_(sound, sound)]),
    )
    there = np.flatnonzero(bytes_D)
    names = target_weights(problem.config, e)
    parts = zip(names, goal.parts_TD.tolist(), strict=True)
    in_order = [e.domains[d] for d in there]
    return ClosedForm(
        members=[scorer.members[c] for c in sound],
        domains=in_order,
        in_pool=[bool(e.in_pool[d]) for d in there],
        constant=form.constant_D[there].tolist(),
        linear=form.linear_DC[np.ix_(there, sound)].tolist(),
        curve=form.curve_DCC[np.ix_(there, sound, sound)].tolist(),
        base=goal.base_D[there].tolist(),
        residual=residual_D[there].tolist(),
        checks=len(checks),
        target={
            n: {e.domains[d]: w for d, w in enumerate(part_D) if w > 0}
            for n, part_D in parts
        },
        weights=dict(zip(names, goal.weights_T.tolist(), strict=True)),
        kind="mean" if goal.kind == "mean" else "worst",
        presets=[
            {
                "name": name,
                "weights": presets.parts(m),
                "bits": preset_MD[m, there].tolist(),
            }
            for m, name in enumerate(presets.names)
        ],
        reference=Labels.PROPORTIONAL,
        most=_most(problem, sound),
        refusal=misfit.refusal,
        calibrated=correction is not None,
        basis=found.basis,
    )


def _presets(problem: Problem, found: SearchResult) -> Mixtures:
    """The answer, what it is compared with, and some that tie with it or are simple."""
    members = problem.scorer.members
    singles = [row for row in found.rows if is_single(row)]
    rows = [*found.shortlist[1 : 1 + _TIED], *singles]
    best_C, *others = (
        np.array([row["weights"].get(name, 0.0) for name in members])
        for row in (found.best, *rows)
    )
    known = rivals(problem, best_C)
    there = {mixture_key(w_C) for w_C in known.w_MC}
    more = {
        row["name"]: w_C
        for row, w_C in zip(rows, others, strict=True)
        if mixture_key(w_C) not in there
    }
    return Mixtures(
        members,
        (*known.names, *more),
        (*known.kinds, *more),
        np.concatenate([known.w_MC, *(w_C[None] for w_C in more.values())]),
        np.ones(len(known) + len(more)),
    )


def test_windows(problem: Problem) -> np.ndarray:
    """All test windows of the domains that matter, and some of the others."""
    e = problem.scorer.evaluation
    others = e.rows("test", problem.scorer.config.windows)
    others = others[~problem.objective.needed_D[e.domain_R[others]]]
    return np.sort(np.concatenate([problem.windows("test"), others]))


def trained_bits(problem: Problem, table: Mixtures, rows: np.ndarray) -> np.ndarray:
    """Bits per byte [M, D] of merges on test text; as expected of training, on what
    the objective needs.
    """
    losses = problem.scorer.merge(table, rows)
    bits_MD = bits_of(problem.scorer.evaluation, losses, "test")
    if problem.correction is None:
        return bits_MD
    shift_MD = problem.correction.shift(table.w_MC, bits_MD, rows)
    return bits_MD + np.where(problem.objective.needed_D, shift_MD, 0.0)


def _most(problem: Problem, sound: np.ndarray) -> list[float | None]:
    """See `ClosedForm.most`; of members that share a text, each one's alone."""
    plan = problem.feasible.plan
    if not plan.tokens:
        return [None] * len(sound)
    alone_CC = np.eye(len(plan.epochs_C))
    return [float(plan.epochs_C[c] / plan.epochs(alone_CC[c])[c]) for c in sound]
