"""Diagnostics of a pool, before any reference run: can its merges be trusted?

Merging can stand in for training where the loss is nearly linear, or convex,
between base and members. Each rule of the verdict checks one way this can fail.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import numpy as np

from jaxsim.corpus.names import Labels
from jaxsim.errors import UserError
from jaxsim.records import Basis, Stored, need, need_names, need_shape
from jaxsim.scoring.evaluation import EvaluationSet
from jaxsim.scoring.program import BFLOAT16_BITS
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import bits_of
from jaxsim.scoring.stack import StackedPool
from jaxsim.scoring.table import Mixtures
from jaxsim.scoring.targets import ALL, IN_POOL
from jaxsim.search.objective import weighted_mean
from jaxsim.search.ties import ENOUGH_DOCUMENTS
from jaxsim.validation.agreement import replicate_noise
from jaxsim.validation.measured import Replicates, own_units

FEW_WINDOWS = 4  # of a domain: C members have about five rows each
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
BEYOND = 1.5  # of the uniform merge only: would further be better?
UNIFORM = Labels.UNIFORM
_BLOCK_NUMBERS = 2**22  # of differences in float64: 32 MB

Word = Literal["trust", "trust ranks only", "do not trust"]
TRUST: Word = "trust"
RANKS_ONLY: Word = "trust ranks only"
DO_NOT_TRUST: Word = "do not trust"

SMALL_DRIFT = 0.03  # with published levels nearly right; see docs/validate.md
# Three times the largest published one: no reason to trust, unless the loss still
# falls all the way to the merge, as it does from a base that is hardly trained.
LARGE_DRIFT = 0.3
# Further from the base than the base is from zero: nothing of it is left.
LOST_DRIFT = 1.0
# Share of the loss. Frankle et al. 2020 (linear mode connectivity) call less than 2 %
# of an error stable; a quarter of that could reorder the mixtures of one pool.
BARRIER = 0.005
# Beyond, the second half of the line gains less than a third of the first.
CURVED = 0.5
Z95 = 1.96


@dataclasses.dataclass(frozen=True)
class Diagnostics(Stored):
    """What a pool shows about its merges; losses in bits per byte."""

    FILE = "validation/diagnostics.json"
    ADVICE = "delete it and run `jaxsim validate` again"

    verdict: Word
    reasons: list[str]  # for it, as sentences
    members: list[str]  # C that were examined; damaged ones are left out
    drift: dict[str, float]  # ||member - base|| / ||base||, by member
    cosines: list[list[float]]  # [C, C] between differences from the base model
    # From the base model to 'uniform' and to every member: 'scale', and the losses
    # there by target: 'macro', 'macro in-pool', and a member's 'own' domain.
    lines: dict[str, dict[str, list[float]]]
    # How far a line is above its chord, on the macro or, if more, on the own domain.
    line_barriers: dict[str, float]
    # Macro of an average minus the mean of those of its members: 'uniform', and
    # neighbors in the pool, as 'a + b'.
    barriers: dict[str, float]
    # Percent of the loss by which two mixtures must differ to be told apart, by domain
    # and macro; None where there is too little text.
    resolution: dict[str, float | None]
    below_noise: bool  # whether members differ by less than noise in every domain
    windows: int  # most windows of a domain that were scored; 0 for all
    replicates: int  # pairs of runs that the training noise is computed from
    basis: Basis
    notes: list[str]  # what an override admitted

    def check_parts(self) -> None:
        """Raises a `UserError` if the fields do not fit together; see `records`."""
        need(len(self.members) > 1, "at least two", self.members, "members")
        need(UNIFORM in self.barriers, f"with {UNIFORM!r}", "none", "barriers")
        need_names(self.drift, self.members, "drift")
        need_shape(self.cosines, [len(self.members)] * 2, "cosines")
        need_names(self.lines, [UNIFORM, *self.members], "lines")
        need_names(self.line_barriers, self.lines, "line_barriers")
        for name, line in self.lines.items():
            need({"scale", ALL} <= line.keys(), "complete", sorted(line), "lines")
            for losses in line.values():
                need_shape(losses, [len(_scales(name))], f"lines.{name}")


def diagnose(
    scorer: Scorer,
    windows: int = FEW_WINDOWS,
    replicates: Replicates | None = None,
    others: Mapping[str, str] | None = None,
) -> Diagnostics:
    """Examines a pool.

    Args:
      scorer: of the pool.
      windows: most windows of each domain's dev text; 0: all.
      replicates: for the training noise.
      others: digests of these, by name.

    Raises:
      UserError: fewer than two sound members, or no dev text.
      DamagedError: as `Scorer`.
    """
    stack, evaluation = scorer.stack, scorer.evaluation
    sound = [c for c, n in enumerate(stack.names) if n not in stack.damaged]
    members = [stack.names[c] for c in sound]
    if len(members) < 2:
        raise UserError("diagnostics need a pool of at least two sound members")
    ring = zip(members, members[1:] + members[:1], strict=True)
    neighbors = list(ring)[: len(members) if len(members) > 2 else 1]
    averaged = {Labels.SUBSET.format(*pair): [*pair] for pair in neighbors}
    averaged = {UNIFORM: members} | averaged
    table = line_table(stack.names, members, averaged)
    rows = evaluation.rows("dev", windows)
    merge = scorer.merge(table, rows, "diagnostics")
    bits_MD = bits_of(evaluation, merge, "dev")
    bits = dict(zip(table.names, bits_MD, strict=True))
    nll = dict(zip(table.names, merge.nll_MR.astype(np.float64), strict=True))
    targets = targets_with_text(evaluation, bits_MD)
    if not targets:
        raise UserError("diagnostics need dev text, and the corpus has none")
    macro_M = weighted_mean(bits_MD, targets[ALL]).tolist()
    macro = dict(zip(table.names, macro_M, strict=True))
    own_DC = own_units(scorer.corpus, stack.names, evaluation)
    own = {stack.names[c]: evaluation.domains[d] for d, c in np.argwhere(own_DC)}
    lines, line_barriers = {}, {}
    for name in (UNIFORM, *members):
        scales = list(_scales(name))
        bits_SD = np.array([bits[_point(name, scale)] for scale in scales])
        shown = {key: targets[key] for key in (ALL, IN_POOL) if key in targets}
        if own.get(name) in targets:
            shown["own"] = targets[own[name]]
        line = {key: weighted_mean(bits_SD, w_D).tolist() for key, w_D in shown.items()}
        lines[name] = {"scale": scales} | line
        line_barriers[name] = max(
            barrier(SCALES, line[key][: len(SCALES)]) for key in line if key != IN_POOL
        )
    barriers = {
        name: macro[name] - sum(macro[n] for n in ends) / len(ends)
        for name, ends in averaged.items()
    }

    def errors(names: Sequence[str], from_R: np.ndarray) -> np.ndarray:
        """[K, D] errors, from the text, of the differences of K rows from others."""
        off_KR = np.array([nll[name] - from_R for name in names])
        return text_errors(evaluation, rows, off_KR)

    # Averages differ less than members do, and averages are what is ranked. With
    # two members the average of neighbors is that of all.
    typical = [n for n in averaged if n != UNIFORM]
    error_KD = errors(typical if len(typical) > 1 else members, nll[UNIFORM])
    bits_CD = np.array([bits[n] for n in members])
    mean_R = np.mean([nll[n] for n in members], axis=0)
    inside = IN_POOL if IN_POOL in targets else ALL
    of_scale = dict(zip(lines[UNIFORM]["scale"], lines[UNIFORM][inside], strict=True))
    base_1D, level = errors([Labels.BASE], nll[UNIFORM]), macro[UNIFORM]
    error = resolution(base_1D, bits[UNIFORM], targets[inside], None)
    drift_C, cosine_CC = geometry(stack)
    manifests = scorer.pool.manifests("member")
    base_digest = scorer.pool.identity["base_digest"]
    verdict, reasons = judge(
        other_base=[n for n in members if manifests[n].base_digest != base_digest],
        drift=float(np.median(drift_C[sound])),
        line=of_scale,
        error=(error or 0.0) / 100 * of_scale[1.0],
        barriers={n: b / level for n, b in barriers.items()}
        | {"the line to uniform": line_barriers[UNIFORM] / level},
        line_barriers={n: line_barriers[n] / level for n in members},
    )
    return Diagnostics(
        verdict=verdict,
        reasons=reasons,
        members=members,
        drift=dict(zip(members, drift_C[sound].tolist(), strict=True)),
        cosines=cosine_CC[np.ix_(sound, sound)].tolist(),
        lines=lines,
        line_barriers=line_barriers,
        barriers=barriers,
        resolution={
            target: resolution(error_KD, bits[UNIFORM], weights_D, replicates)
            for target, weights_D in targets.items()
        },
        below_noise=within_noise(
            bits_CD - bits_CD.mean(axis=0), errors(members, mean_R), replicates
        ),
        windows=windows,
        replicates=0 if replicates is None else len(replicates[0]),
        basis=dataclasses.replace(scorer.basis, others=dict(others or {})),
        notes=list(stack.notes),
    )


def targets_with_text(
    evaluation: EvaluationSet, bits_MD: np.ndarray
) -> dict[str, np.ndarray]:
    """Weights [D] of the domains with text, the in-pool macro and that over all.

    They sum to 1. Here a macro may be over a single domain.
    """
    there_D, eye_DD = np.isfinite(bits_MD).all(axis=0), np.eye(bits_MD.shape[1])
    parts = {evaluation.domains[d]: eye_DD[d] for d in np.flatnonzero(there_D)}
    parts |= {IN_POOL: there_D & np.array(evaluation.in_pool), ALL: there_D}
    return {name: x_D / x_D.sum() for name, x_D in parts.items() if x_D.any()}


def _scales(name: str) -> tuple[float, ...]:
    """Of the line from the base model to a row."""
    return (*SCALES, BEYOND) if name == UNIFORM else SCALES


def _point(name: str, scale: float) -> str:
    """The row of the table at one scale of a line."""
    if not scale:
        return Labels.BASE
    return name if scale == 1 else Labels.POINT.format(name, scale)


def line_table(
    columns: Sequence[str], members: Sequence[str], averaged: dict[str, list[str]]
) -> Mixtures:
    """Rows to score: the base model, points of the lines, averages of members."""
    ends = {name: [name] for name in members} | averaged
    w_C = {name: np.isin(columns, of) / len(of) for name, of in ends.items()}
    rows = {Labels.BASE: (w_C[UNIFORM], 0.0)} | {
        _point(name, scale): (w_C[name], scale)
        for name in (UNIFORM, *members)
        for scale in _scales(name)[1:]
    }
    rows |= {name: (w_C[name], 1.0) for name in averaged}
    weights, scales = zip(*rows.values(), strict=True)
    return Mixtures(
        tuple(columns),
        tuple(rows),
        ("diagnostics",) * len(rows),
        np.array(weights),
        np.array(scales),
    )


def geometry(stack: StackedPool) -> tuple[np.ndarray, np.ndarray]:
    """Drift [C], and cosines [C, C]; 0 for a member that equals the base."""
    gram_CC = np.zeros((len(stack.names),) * 2)
    for d_C in jax.tree.leaves(stack.delta_C):
        step = max(1, _BLOCK_NUMBERS * d_C.shape[0] // d_C.size)
        for start in range(0, d_C.shape[0], step):
            block = np.asarray(d_C[start : start + step])
            if block.dtype == BFLOAT16_BITS:
                block = (block.astype(np.uint32) << 16).view(np.float32)
            block = np.moveaxis(block, 1, 0).astype(np.float64)
            block = block.reshape(len(block), -1)
            gram_CC += block @ block.T
    norm_C = np.sqrt(np.diag(gram_CC))
    apart_C = np.where(norm_C > 0, norm_C, np.inf)
    cosine_CC = gram_CC / np.outer(apart_C, apart_C)
    leaves = map(np.asarray, jax.tree.leaves(stack.base))
    square = sum(float(np.sum(np.square(x, dtype=np.float64))) for x in leaves)
    return norm_C / np.sqrt(square), cosine_CC


def barrier(scales: Sequence[float], losses: Sequence[float]) -> float:
    """How far a line of losses at increasing scales is above its chord, at most.

    The loss barrier of Frankle et al. 2020. Negative if the loss is convex.
    """
    t = (np.array(scales) - scales[0]) / (scales[-1] - scales[0])
    chord = losses[0] + t * (losses[-1] - losses[0])
    return float((np.array(losses) - chord)[1:-1].max())


def judge(
    *,
    other_base: Sequence[str],
    drift: float,
    line: Mapping[float, float],
    error: float,
    barriers: Mapping[str, float],
    line_barriers: Mapping[str, float],
) -> tuple[Word, list[str]]:
    """The verdict, and the reasons as sentences, the most serious first.

    Args:
      other_base: members that were trained from another base than the pool's.
      drift: median over members.
      line: the in-pool macro, bits per byte, by scale of the line to uniform.
      error: 95 % error of a difference on the in-pool macro, from the text.
      barriers: of averages and the line to uniform, as shares of the loss, by name.
      line_barriers: of the lines to single members.
    """
    broken = []  # why merges say nothing about training
    if other_base:
        broken.append(
            f"{', '.join(other_base)}: trained from another base model; "
            "only copies of one base model can be averaged"
        )
    name, height = max(barriers.items(), key=lambda pair: pair[1])
    if height > BARRIER:
        broken.append(
            f"averaging breaks: {name} is {height:.1%} worse than the straight line "
            "between what it averages"
        )
    if line[1.0] > line[0.0] + error:
        broken.append(
            "the average of all members is worse than the base model on the text they "
            f"trained on ({line[1.0]:.4f} against {line[0.0]:.4f} bits per byte): the "
            "runs were too long or the learning rate was too high"
        )
    if drift > LARGE_DRIFT and line[1.0] > line[0.5] + error:
        broken.append(
            f"the members are far from the base model (median drift {drift:.0%}), and "
            "a point halfway to their average is better than the average"
        )
    if drift > LOST_DRIFT:
        broken.append(
            "the members are further from the base model (median drift "
            f"{drift:.0%}) than the base model is from zero"
        )
    bent = []  # why levels are off although ranks may be right
    if drift > SMALL_DRIFT:
        bent.append(
            f"the median drift is {drift:.1%}; above {SMALL_DRIFT:.0%} predicted "
            "levels are off"
        )
    first, second = line[0.0] - line[0.5], line[0.5] - line[1.0]
    bend = abs(first - second) / max(abs(first) + abs(second), 1e-12)
    # A bend within the error of the text cannot be seen.
    if bend > CURVED and abs(first - second) > error:
        bent.append(
            "the loss bends on the way to the average of all members: the first half "
            f"gains {first:.4f} bits per byte, the second {second:.4f}"
        )
    name, height = max(line_barriers.items(), key=lambda pair: pair[1])
    if height > BARRIER:
        bent.append(
            f"the line from the base model to {name} rises {height:.1%} above the "
            "straight one"
        )
    if broken:
        return DO_NOT_TRUST, broken
    if bent:
        return RANKS_ONLY, bent
    return TRUST, [
        f"the members stayed near the base model (median drift {drift:.1%}), and the "
        "loss is nearly straight on the way to their average"
    ]


def text_errors(
    evaluation: EvaluationSet, rows: np.ndarray, nll_KR: np.ndarray
) -> np.ndarray:
    """Standard errors [K, D] of bits per byte, from the choice of the text.

    That of a quotient of sums over documents, to first order; over windows where
    a domain has fewer than `ENOUGH_DOCUMENTS`. NaN with fewer than two.

    Args:
      evaluation, rows: windows in an evaluation set.
      nll_KR: nats on them, or differences of nats between mixtures: then what
        is common to both cancels.
    """
    e = evaluation
    error_KD = np.full((len(nll_KR), len(e.domains)), np.nan)
    for d in range(len(e.domains)):
        mine = np.flatnonzero(e.domain_R[rows] == d)
        found, label = np.unique(e.document_R[rows[mine]], return_inverse=True)
        if len(found) < ENOUGH_DOCUMENTS:
            found = label = np.arange(len(mine))
        count = len(found)
        if count < 2:
            continue
        onehot_RG = np.eye(count)[label]
        onehot_RG *= e.weight_R[rows[mine], None]
        bytes_G = e.bytes_R[rows[mine]] @ onehot_RG
        nll_KG = nll_KR[:, mine] @ onehot_RG
        mean_K1 = nll_KG.sum(axis=1, keepdims=True) / bytes_G.sum()
        square_K = ((nll_KG - mean_K1 * bytes_G) ** 2).sum(axis=1)
        error_KD[:, d] = np.sqrt(square_K * count / (count - 1))
        error_KD[:, d] /= bytes_G.sum() * np.log(2.0)
    return error_KD


def resolution(
    error_KD: np.ndarray,
    bits_D: np.ndarray,
    weights_D: np.ndarray,
    replicates: Replicates | None,
) -> float | None:
    """Percent of a target's loss below which two mixtures cannot be told apart.

    At 95 %, from the text and, with replicates, from the noise of two runs. None
    where there is too little text.

    Args:
      error_KD: standard errors of K typical differences; see `text_errors`.
      bits_D: a typical loss.
      weights_D: of the target.
      replicates: of any runs.
    """
    text = np.mean(weighted_mean(error_KD**2, weights_D**2))
    # Errors of domains are independent: squares of the weights, not weights.
    text *= (weights_D**2).sum() / weights_D.sum() ** 2
    variance = text + 2 * _run_noise(replicates, weights_D) ** 2
    level = weighted_mean(bits_D[None], weights_D)[0]
    percent = 100 * Z95 * np.sqrt(variance) / level
    return float(percent) if np.isfinite(percent) else None


def within_noise(
    deviation_CD: np.ndarray, error_CD: np.ndarray, replicates: Replicates | None
) -> bool:
    """Whether members differ by less than their noise, in every domain.

    Args:
      deviation_CD: bits per byte of members, minus the mean over them.
      error_CD: standard errors of these.
      replicates: of any runs.
    """
    known = np.isfinite(error_CD).all(axis=0)
    eye_DD = np.eye(error_CD.shape[1])[known]
    noise_D = np.array([_run_noise(replicates, one_D) for one_D in eye_DD])
    spread_D = (deviation_CD[:, known] ** 2).mean(axis=0)
    # Relative to the mean over C members, which contains part of each one's noise.
    noise_D *= np.sqrt(1 - 1 / len(deviation_CD))
    error_D = (error_CD[:, known] ** 2).mean(axis=0) + noise_D**2
    return bool(known.any()) and bool((spread_D <= Z95**2 * error_D).all())


def _run_noise(replicates: Replicates | None, weights_D: np.ndarray) -> float:
    """The noise of one run on a target, in bits per byte; 0 if unknown."""
    if replicates is None:
        return 0.0
    noise = replicate_noise(*(weighted_mean(r, weights_D) for r in replicates))
    return noise if np.isfinite(noise) else 0.0
