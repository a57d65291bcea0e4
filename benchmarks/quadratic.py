"""How well does a closed form predict real merges? On finished pools.

    python benchmarks/quadratic.py NAME=WORKDIR ... [--windows=8] [--long=40]

A workdir needs its members only. 300 mixtures (Dirichlet(1), Dirichlet(0.3), equal
subsets of one to three members) are merged on `--windows` dev windows of each domain.
Beside the closed form of `jaxsim.scoring.quadratic` stand the same fit with other
distances between members (of their parameters; of their logits, of all domains together
or of each), and the predictors that need no gradient. An error is the standard
deviation of predicted minus real, as a share of that of the real ones: what is common
to all mixtures changes no rank. (The product's own check counts it as well.) With
--long, closed forms that were fitted on the few windows are compared with merges on
more of them: what the choice of the text adds.

Everything is computed in a copy of the workdir. It is about merges, not about training.

The recorded pools are that of `configs/quickstart.py`, and two that stop after `train`
(about half an hour on two cores): of `configs/fields.py` with --config.base.steps=1000,
and of `configs/fields.py:short` with the same and --config.corpus.max_units=2.
"""

import itertools
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import machine
import numpy as np
from scipy.stats import spearmanr

from jaxsim.config import ScoreConfig
from jaxsim.scoring.evaluation import scored_mask
from jaxsim.scoring.evaluator import execution_of
from jaxsim.scoring.program import merge
from jaxsim.scoring.quadratic import Misfit, Quadratic, fit
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.table import Mixtures

MIXTURES = 300
LONG_MIXTURES = 60
TIMED = 100_000


def drawn(members: int) -> dict[str, np.ndarray]:
    """Mixtures by what they are drawn from."""
    generator = np.random.default_rng(5)
    chosen = [
        np.bincount(places, minlength=members) / size
        for size in (1, 2, 3)
        for places in itertools.combinations(range(members), size)
    ]
    subset_MC = np.array(chosen)[generator.permutation(len(chosen))]
    third = MIXTURES // 3
    return {
        "Dirichlet(1)": generator.dirichlet(np.ones(members), third),
        "Dirichlet(0.3)": generator.dirichlet(np.full(members, 0.3), third),
        "subsets of 1-3": subset_MC[:third],
    }


def merged(scorer: Scorer, w_MC: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Sums of nats [M, D] of real merges."""
    names = tuple(f"mixture {m}" for m in range(len(w_MC)))
    kinds = ("mixture",) * len(w_MC)
    table = Mixtures(scorer.members, names, kinds, w_MC, np.ones(len(w_MC)))
    found = scorer.merge(table, rows, "merges").nll_MR
    return scorer.evaluation.sums(found, rows)


def parameter_distances(scorer: Scorer) -> np.ndarray:
    """[C, C] squared distances between the members' parameters."""
    gram_CC = np.zeros((len(scorer.members),) * 2)
    eye_CC = np.eye(len(scorer.members))
    stack = scorer.stack
    for base, delta_C in zip(
        jax.tree.leaves(stack.base), jax.tree.leaves(stack.delta_C), strict=True
    ):
        moved = [merge(0 * base, delta_C, jnp.asarray(w_C), 1.0) for w_C in eye_CC]
        flat_CP = np.array(moved, np.float64).reshape(len(moved), -1)
        gram_CC += flat_CP @ flat_CP.T
    return distances(gram_CC)


def distances(gram_CC: np.ndarray) -> np.ndarray:
    square_C = np.diag(gram_CC)
    found: np.ndarray = square_C[:, None] + square_C - 2 * gram_CC
    return found


def logit_distances(scorer: Scorer, rows: np.ndarray) -> np.ndarray:
    """[D, C, C]: the members' logits, in the Fisher metric of their mean logits."""
    e, stack, model = scorer.evaluation, scorer.stack, scorer.pool.model
    execution = execution_of(scorer.evaluator.programs.config)
    decoder, members = model._decoder(execution), len(scorer.members)

    @jax.jit
    def of_window(tokens_1L: jax.Array, scored_L: jax.Array) -> jax.Array:
        def logits(w_C: jax.Array) -> jax.Array:
            params = merge(stack.base, stack.delta_C, w_C, 1.0)
            x_1LD, head_VD = decoder.apply({"params": params}, tokens_1L)
            z_LV = jnp.einsum("ld,vd->lv", x_1LD[0], head_VD)[:, : model.vocab_size]
            return z_LV - z_LV.mean(axis=1, keepdims=True)

        z_CLV = jax.lax.map(logits, jnp.eye(members))
        p_LV = jax.nn.softmax(z_CLV.mean(axis=0))
        z_CLV -= jnp.sum(p_LV * z_CLV, axis=2, keepdims=True)
        z_CLV *= jnp.sqrt(p_LV * scored_L[:, None])
        z_CX = z_CLV.reshape(members, -1)
        return z_CX @ z_CX.T

    gram_DCC = np.zeros((len(e.domains), members, members))
    for r, scored_L in zip(rows, scored_mask(e, rows), strict=True):
        gram_CC = of_window(jnp.asarray(e.tokens_RL1[r : r + 1, :-1]), scored_L)
        gram_DCC[e.domain_R[r]] += np.asarray(gram_CC, np.float64)
    tokens_D = np.bincount(e.domain_R[rows], e.count_R[rows], len(e.domains))
    return np.array([distances(g) for g in gram_DCC / tokens_D[:, None, None]])


def targets(scorer: Scorer, used_D: np.ndarray) -> dict[str, np.ndarray]:
    """Weights [D] of the domains in the two macros."""
    inside_D = np.array(scorer.evaluation.in_pool) & used_D
    found = {"macro in-pool": inside_D, "macro out-of-pool": used_D & ~inside_D}
    return {name: d / d.sum() for name, d in found.items() if d.any()}


def compared(
    predicted_MD: np.ndarray, real_MD: np.ndarray, parts: dict[str, np.ndarray]
) -> dict[str, float]:
    """Errors as shares of the spread, and Spearman correlations."""
    inside_D, outside_D = (
        parts.get(f"macro {where}", np.zeros(real_MD.shape[1])) > 0
        for where in ("in-pool", "out-of-pool")
    )
    found = {}
    for where, d in (("in-pool", inside_D), ("out-of-pool", outside_D)):
        if d.any():
            off_D = (predicted_MD - real_MD)[:, d].std(axis=0)
            shares = off_D / real_MD[:, d].std(axis=0)
            found[f"domains {where}, mean"] = float(shares.mean())
            found[f"domains {where}, worst"] = float(shares.max())
    for name, part_D in parts.items():
        predicted_M, real_M = predicted_MD @ part_D, real_MD @ part_D
        found[name] = float(np.std(predicted_M - real_M) / np.std(real_M))
        found[f"{name}, Spearman"] = float(spearmanr(predicted_M, real_M)[0])
        best_M = real_M[predicted_M.argmin()] - real_M.min()
        found[f"{name}, regret in bits per byte"] = float(best_M)
    return found


def of_pool(workdir: Path, windows: int, long: int) -> dict[str, Any]:
    scorer = Scorer(workdir, ScoreConfig(windows=windows))
    e, c = scorer.evaluation, len(scorer.members)
    rows, u_C = e.rows("dev", windows), np.full(c, 1 / c)
    bytes_D = e.sums(e.bytes_R[rows], rows)
    nats_D = np.where(bytes_D > 0, bytes_D, np.nan) * np.log(2)
    parts = targets(scorer, bytes_D > 0)
    mixtures = drawn(c)
    w_MC = np.concatenate(list(mixtures.values()))
    begin = time.perf_counter()
    real_MD = merged(scorer, w_MC, rows) / nats_D
    seconds_of_merges = time.perf_counter() - begin
    begin = time.perf_counter()
    product = scorer.quadratic(rows)
    seconds_of_fit = time.perf_counter() - begin
    slope = scorer.jacobian(u_C, 1.0, rows)
    pins = product.member_DC, e.sums(slope.nll_R, rows), slope.dw_DC
    logits_DCC = logit_distances(scorer, rows)

    def by_domain() -> Quadratic:
        each = [
            fit(*pins, apart_CC).curve_DCC[d] for d, apart_CC in enumerate(logits_DCC)
        ]
        return Quadratic(product.member_DC, np.array(each), product.damaged_C)

    fitted = {
        "closed form: token losses": product,
        "closed form: parameters": fit(*pins, parameter_distances(scorer)),
        "closed form: logits, all domains": fit(*pins, logits_DCC.mean(axis=0)),
        "closed form: logits, each domain": by_domain(),
    }
    predicted = {name: each.sums(w_MC) / nats_D for name, each in fitted.items()}
    predicted["ensemble"] = scorer.ensemble(rows).sums(w_MC) / nats_D
    predicted["mean of members"] = scorer.members_sums(w_MC, rows) / nats_D
    stops = np.cumsum([0, *map(len, mixtures.values())])
    places = dict(
        zip(mixtures, itertools.starmap(slice, itertools.pairwise(stops)), strict=True)
    )
    ensemble = scorer.quadratic(rows, "ensemble").sums(w_MC) / nats_D
    found: dict[str, Any] = {
        "members": c,
        "domains": int(np.count_nonzero(bytes_D)),
        "tokens": int(e.count_R[rows].sum()),
        "residuals": {
            name: {
                source: compared(bits_MD[here], real_MD[here], parts)
                for source, here in places.items()
            }
            for name, bits_MD in predicted.items()
        },
        "closed form of the ensemble, against the ensemble": {
            source: compared(ensemble[here], predicted["ensemble"][here], parts)
            for source, here in places.items()
        },
        "seconds of 300 merges": seconds_of_merges,
        "seconds of the fit, with the members' losses": seconds_of_fit,
    }
    # What the product says about itself.
    checks = scorer.checks()
    checked_MD = merged(scorer, checks.w_MC, rows) / nats_D
    said_MD = product.sums(checks.w_MC) / nats_D
    used = np.flatnonzero(bytes_D > 0)
    found["checks"] = {}
    for name, part_D in parts.items():
        convexity = product.convexity(np.nan_to_num(part_D / nats_D))
        misfit = Misfit.of(said_MD @ part_D, checked_MD @ part_D, convexity)
        found["checks"][name] = {"share": misfit.share, "refusal": misfit.refusal}
    found["domains refused"] = {
        e.domains[d]: refusal
        for d, one_D in zip(used, np.eye(len(bytes_D))[used], strict=True)
        if (
            refusal := Misfit.of(
                said_MD[:, d], checked_MD[:, d], product.convexity(one_D)
            ).refusal
        )
    }
    found["lowest convexity of a domain"] = min(
        product.convexity(one_D) for one_D in np.eye(len(bytes_D))[used]
    )
    many_MC = np.random.default_rng(0).dirichlet(np.ones(c), TIMED)
    begin = time.perf_counter()
    product.sums(many_MC)
    found[f"seconds of {TIMED:,} mixtures"] = time.perf_counter() - begin
    if long:
        at = np.random.default_rng(1).permutation(len(w_MC))[:LONG_MIXTURES]
        more = e.rows("dev", long)
        nats_of_more_D = e.sums(e.bytes_R[more], more) * np.log(2)
        truth_MD = merged(scorer, w_MC[at], more) / nats_of_more_D
        found[f"{windows} windows against merges on {long}"] = {
            "closed form": compared(
                predicted["closed form: token losses"][at], truth_MD, parts
            ),
            "real merges": compared(real_MD[at], truth_MD, parts),
            "ensemble": compared(predicted["ensemble"][at], truth_MD, parts),
        }
    return found


def markdown(result: dict[str, Any], windows: int) -> str:
    lines = [
        "# How well a closed form predicts real merges",
        "",
        f"`python benchmarks/quadratic.py`; {result['machine']['cpu']}, "
        f"{result['machine']['cores_used']} cores, {result['machine']['date']}. "
        f"{windows} dev windows of each domain. Errors: standard deviation of "
        "predicted minus real, in % of that of the real merges.",
    ]
    for name, pool in result["pools"].items():
        lines += [
            "",
            f"## {name}: {pool['members']} members, {pool['domains']} domains, "
            f"{pool['tokens']:,} tokens",
        ]
        for source in next(iter(pool["residuals"].values())):
            keys = list(next(iter(pool["residuals"].values()))[source])
            lines += [
                "",
                f"| {source} | {' | '.join(keys)} |",
                "| --- |" + " --- |" * len(keys),
            ]
            for predictor, by_source in pool["residuals"].items():
                cells = [_cell(key, by_source[source][key]) for key in keys]
                lines.append(f"| {predictor} | {' | '.join(cells)} |")
        for title, by in pool.items():
            if title.startswith(("closed form of", f"{windows} windows against")):
                keys = list(next(iter(by.values())))
                lines += [
                    "",
                    f"| {title} | {' | '.join(keys)} |",
                    "| --- |" + " --- |" * len(keys),
                ]
                lines += [
                    f"| {n} | {' | '.join(_cell(k, v[k]) for k in keys)} |"
                    for n, v in by.items()
                ]
        lines += ["", "What it says about itself on 20 random merges:", ""]
        lines += [
            f"- {target}: {check['share']:.1%} of the spread"
            + (f"; refused: {check['refusal']}" if check["refusal"] else "")
            for target, check in pool["checks"].items()
        ]
        lines += [
            f"- refused on {d}: {why}" for d, why in pool["domains refused"].items()
        ]
        lines += [
            "",
            *(
                f"- {key}: {value:.3g}"
                for key, value in pool.items()
                if key.startswith(("seconds", "lowest"))
            ),
        ]
    return "\n".join(lines) + "\n"


def _cell(key: str, value: float) -> str:
    if "Spearman" in key:
        return f"{value:.3f}"
    return f"{value:.5f}" if "regret" in key else f"{100 * value:.1f}"


def main() -> None:
    parser = machine.parser(__doc__, threads=2)
    parser.add_argument("workdirs", nargs="+", metavar="NAME=WORKDIR")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--long", type=int, default=0, help="windows; 0: leave it out")
    arguments = parser.parse_args()
    machine.pin(arguments.threads)
    pools: dict[str, Any] = {}
    result = {"machine": machine.describe(("jax", "jaxlib", "numpy")), "pools": pools}
    for each in arguments.workdirs:
        name, _, workdir = each.partition("=")
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(shutil.copytree(workdir, Path(folder) / "work"))
            pools[name] = of_pool(copy, arguments.windows, arguments.long)
        machine.save(
            arguments.out, "quadratic", result, markdown(result, arguments.windows)
        )
    print(markdown(result, arguments.windows))


if __name__ == "__main__":
    main()
