"""A gauge before any ranking: can averages of this pool be trusted at all?

What the pool itself says, before any truth is trained: how far its members are
from the seed, whether the loss is smooth on the way to them and to their
averages, and what differences the evaluation text can resolve.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxsim.errors import DamagedError, UserError
from jaxsim.mixture.evaluation import EvaluationSet
from jaxsim.mixture.files import replace
from jaxsim.mixture.scorer import Scorer
from jaxsim.mixture.scores import Scores
from jaxsim.pool.digests import object_digest
from jaxsim.search.objective import weighted_mean
from jaxsim.study.drift import geometry
from jaxsim.study.gauge_rules import (
    Signs,
    bump,
    judge,
    resolution,
    text_errors,
    within_noise,
)
from jaxsim.study.ways import (
    ALL,
    INSIDE,
    SCALES,
    UNIFORM,
    neighbours,
    way,
    way_table,
)

FEW_WINDOWS = 4  # of a domain: C members have about five rows each


@dataclasses.dataclass(frozen=True)
class Gauge:
    """What the pool says about its averages; losses in bits per byte.

    Attributes:
      verdict: 'trust', 'trust ranks only' or 'do not trust'.
      reasons: for it, as sentences.
      members: that were looked at, C; damaged ones are left out.
      drift: ||member - seed|| / ||seed||, by member.
      cosines: [C, C] between the members' differences from the seed.
      lines: from the seed to 'uniform' and to every member: 'scale', and the
        losses there by target: 'macro' (of all domains with text), 'macro
        in-pool', and a member's 'own' domain.
      bumps: how far a line is above its chord, on the macro or, if that is
        more, on the own domain.
      barriers: macro of an average minus the mean of those of its members:
        'uniform', and neighbours in the pool, as 'a + b'.
      resolution: percent of the loss by which two mixtures must differ to be
        told apart, by domain and macro; None where there is too little text.
      noise_bound: members differ by less than their noise in every domain.
      windows: of a domain that were looked at, at most; 0 for all.
      repeats: pairs that training noise comes from.
      evaluation: digest of the windows.
      digests: of 'seed' and of every member, by name.
      notes: what an override admitted.
    """

    verdict: str
    reasons: list[str]
    members: list[str]
    drift: dict[str, float]
    cosines: list[list[float]]
    lines: dict[str, dict[str, list[float]]]
    bumps: dict[str, float]
    barriers: dict[str, float]
    resolution: dict[str, float | None]
    noise_bound: bool
    windows: int
    repeats: int
    evaluation: str
    digests: dict[str, str]
    notes: list[str]


def gauge(
    scorer: Scorer,
    windows: int = FEW_WINDOWS,
    repeats: tuple[np.ndarray, np.ndarray] | None = None,
) -> Gauge:
    """Measures a pool on select text, and judges it.

    Args:
      scorer: of the pool.
      windows: of each domain; 0 for all.
      repeats: bits per byte [P, D] of runs and of their repeats, NaN where a
        domain was not measured.

    Raises:
      UserError: fewer than two sound members, or no select text.
      DamagedError: as `Scorer`.
    """
    stack, evaluation = scorer.proxies.stack, scorer.evaluation
    sound = [c for c, n in enumerate(stack.names) if n not in stack.damaged]
    members = [stack.names[c] for c in sound]
    if len(members) < 2:
        raise UserError("a gauge needs a pool of at least two sound members")
    pairs = neighbours(members)
    table = way_table(stack.names, members, pairs)
    rows = evaluation.rows("select", windows)
    merge = scorer.proxies.merge("gauge", table, rows)
    scores = Scores("gauge", table, evaluation, {"merge": merge})
    bits_MD = scores.bits_per_byte("merge", "select")
    bits = dict(zip(table.names, bits_MD, strict=True))
    targets = _targets(scorer, bits_MD)
    drift_C, cosine_CC = geometry(stack)

    lines = {
        name: way(name, bits, targets, _own(scorer, name))
        for name in (UNIFORM, *members)
    }
    bumps = {
        name: max(
            bump(SCALES, line[target][: len(SCALES)])
            for target in (ALL, "own")
            if target in line
        )
        for name, line in lines.items()
    }
    macro_M = weighted_mean(bits_MD, targets[ALL]).tolist()
    macro = dict(zip(table.names, macro_M, strict=True))
    averaged = {UNIFORM: tuple(members)} | {
        f"{a} + {b}": (a, b) for a, b in pairs
    }
    barriers = {
        name: macro[name] - sum(macro[n] for n in ends) / len(ends)
        for name, ends in averaged.items()
    }

    nll = dict(zip(table.names, merge.nll_MR.astype(np.float64), strict=True))
    text = _Text(evaluation, rows, nll)
    # Averages differ less than members do, and it is averages that are ranked.
    # Of two members the average of neighbours is that of all.
    typical = [n for n in averaged if n != UNIFORM]
    typical = typical if len(typical) > 1 else members
    error_KD = text.errors(typical, nll[UNIFORM])
    bits_CD = np.array([bits[n] for n in members])
    mean_R = np.mean([nll[n] for n in members], axis=0)
    inside = INSIDE if INSIDE in targets else ALL
    line = dict(
        zip(lines[UNIFORM]["scale"], lines[UNIFORM][inside], strict=True)
    )
    error_1D = text.errors(["seed"], nll[UNIFORM])
    error = resolution(error_1D, bits[UNIFORM], targets[inside], None)
    level = macro[UNIFORM]
    verdict, reasons = judge(
        Signs(
            foreign=_foreign(scorer, members),
            drift=float(np.median(drift_C[sound])),
            line=line,
            error=(error or 0.0) / 100 * line[1.0],
            barriers={n: b / level for n, b in barriers.items()}
            | {"the way to uniform": bumps[UNIFORM] / level},
            bumps={n: bumps[n] / level for n in members},
        )
    )
    return Gauge(
        verdict=verdict,
        reasons=reasons,
        members=members,
        drift=dict(zip(members, drift_C[sound].tolist(), strict=True)),
        cosines=cosine_CC[np.ix_(sound, sound)].tolist(),
        lines=lines,
        bumps=bumps,
        barriers=barriers,
        resolution={
            target: resolution(error_KD, bits[UNIFORM], weights_D, repeats)
            for target, weights_D in targets.items()
        },
        noise_bound=within_noise(
            bits_CD - bits_CD.mean(axis=0),
            text.errors(members, mean_R),
            repeats,
        ),
        windows=windows,
        repeats=0 if repeats is None else len(repeats[0]),
        evaluation=evaluation.digest,
        digests=stack.pins,
        notes=list(stack.notes),
    )


def save_gauge(workdir: Path, gauge: Gauge) -> None:
    folder = Path(workdir) / "study"
    folder.mkdir(parents=True, exist_ok=True)
    record = json.loads(json.dumps(dataclasses.asdict(gauge)))
    record["sha256"] = object_digest(record)
    text = json.dumps(record, indent=1, allow_nan=False)
    replace(
        folder / "gauge.json", lambda file: file.write(f"{text}\n".encode())
    )


def load_gauge(workdir: Path) -> Gauge | None:
    """What the last gauge of a workdir found, if there was one.

    Raises:
      DamagedError: its file is unreadable.
    """
    path = Path(workdir) / "study" / "gauge.json"
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
        if record.pop("sha256") != object_digest(record):
            raise ValueError("it was altered")
        return Gauge(**record)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedError(
            f"{path}: unreadable ({error}); delete it and gauge the pool again"
        ) from error


@dataclasses.dataclass(frozen=True)
class _Text:
    """Losses [R] of rows of the table on the windows, by name."""

    evaluation: EvaluationSet
    rows: np.ndarray
    nll: dict[str, np.ndarray]

    def errors(self, names: Sequence[str], from_R: np.ndarray) -> np.ndarray:
        """[K, D] errors of the differences of K rows from others."""
        off_KR = np.array([self.nll[name] - from_R for name in names])
        return text_errors(self.evaluation, self.rows, off_KR)


def _targets(scorer: Scorer, bits_MD: np.ndarray) -> dict[str, np.ndarray]:
    """Weights [D] of every domain with text, and of the macros over them.

    Raises:
      UserError: there is no text.
    """
    evaluation = scorer.evaluation
    there_D = np.isfinite(bits_MD).all(axis=0)
    if not there_D.any():
        raise UserError("a gauge needs select text, and the corpus has none")
    eye_DD = np.eye(len(there_D))
    targets = {
        name: eye_DD[d]
        for d, name in enumerate(evaluation.domains)
        if there_D[d]
    }
    inside_D = there_D & np.array(evaluation.in_pool)
    if inside_D.any():
        targets[INSIDE] = inside_D / inside_D.sum()
    return targets | {ALL: there_D / there_D.sum()}


def _own(scorer: Scorer, name: str) -> str | None:
    """The in-pool domain of a member's partition, if it has text."""
    unit = scorer.corpus.units.get(name)
    inside = dict(
        zip(scorer.evaluation.domains, scorer.evaluation.in_pool, strict=True)
    )
    return unit.partition if unit and inside.get(unit.partition) else None


def _foreign(scorer: Scorer, members: list[str]) -> list[str]:
    """Members whose manifest names another seed than the pool's."""
    manifests = scorer.pool.manifests("member")
    seed = scorer.pool.identity["seed_digest"]
    return [n for n in members if manifests[n].seed_digest != seed]
