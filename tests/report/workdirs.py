"""A finished workdir that took no training: real files, invented numbers.

Losses are random but for this: every member is best on its own domain.
"""

import copy
import dataclasses
import json
import random
from pathlib import Path

import jax
import numpy as np

from jaxsim.config import (
    Config,
    CorpusConfig,
    ModelConfig,
    RecipeConfig,
    SearchConfig,
    SourceConfig,
    SplitConfig,
    TokenizerConfig,
    save_config,
)
from jaxsim.corpus import open_corpus, prepare
from jaxsim.model import LanguageModel
from jaxsim.pool import Manifest, create_pool, open_pool
from jaxsim.pool.digests import leaves_by_path, params_digest
from jaxsim.pool.publish import publish, save_attempt
from jaxsim.records import Basis
from jaxsim.scoring.evaluation import EvaluationSet, current_basis, gather
from jaxsim.scoring.quadratic import Misfit
from jaxsim.scoring.scores import PredictorScores, Scores
from jaxsim.scoring.store import ScoreStore
from jaxsim.scoring.table import (
    Mixtures,
    base_row,
    concatenate,
    proportional,
    singles,
    uniform,
)
from jaxsim.search.closed_form import ClosedForm
from jaxsim.search.result import Ranking, SearchResult, save_search
from jaxsim.search.ties import AFTER_RUNS, BEFORE_RUNS
from jaxsim.train import Run, member_run, reference_run
from jaxsim.validation.diagnostics import Diagnostics
from jaxsim.validation.measured import PredictionTable, TrainedChoice, pool_losses
from jaxsim.validation.runs import DISTRIBUTION, mixture_table
from jaxsim.validation.validate import Validation, compare, save_validation

# Allowed as names, and everything that a page or a figure could trip over.
HOSTILE = ("<img src=x onerror=alert(1)>", '{{ 7+7 }} & "$x_{$')
MEMBERS = tuple(sorted(("alpha", *HOSTILE)))
OUTSIDE = "https:evil.example"
_KNOWN: dict[tuple, Validation] = {}
DRIFT = dict(zip(MEMBERS, (0.02, 0.05, 0.1), strict=True))
BASIS = Basis("text", base="s", members={name: f"d {name}" for name in MEMBERS})


def config(folder: Path) -> Config:
    """Three partitions and one domain from outside the pool."""
    folder.mkdir(parents=True)
    sources = {}
    for i, name in enumerate((*MEMBERS, OUTSIDE)):
        rng = random.Random(name)
        path = folder / f"{i}.jsonl"
        lines = [
            {
                "id": f"{i}/{n}",
                "text": " ".join(
                    "".join(rng.choices("abcdefghij", k=4)) for _ in range(60)
                ),
            }
            for n in range(40)
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        sources[name] = SourceConfig(reader="records", path=str(path))
    domains = {OUTSIDE: sources.pop(OUTSIDE)}
    return Config(
        name="a <b>test</b>",
        corpus=CorpusConfig(
            partitions=sources,
            domains=domains,
            tokenizer=TokenizerConfig(kind="bytes"),
            split=SplitConfig(salt="t", dev=0.2, test=0.2),
        ),
        model=ModelConfig(length=32, layers=1, dim=8, heads=2, kv_heads=2, mlp_dim=8),
        recipe=RecipeConfig(steps=4, batch=2),
    )


def make_workdir(folder: Path) -> Path:
    """Corpus, base model, members and scores; no reference run, no search."""
    conf = config(folder / "sources")
    workdir = folder / "work"
    corpus = prepare(conf, workdir)
    save_config(conf, workdir / "config.json")
    model = LanguageModel(conf.model, corpus.tokenizer.vocab_size)
    base = jax.tree.map(np.asarray, model.init(jax.random.key(0)))
    run = Run("base", "base", {"base": 1.0}, 4)
    recipe = dataclasses.asdict(conf.base) | {"batch": 2}
    _publish(workdir / "base", run, base, corpus, conf, "", recipe)
    pool = create_pool(workdir, conf, corpus)
    for name, drift in DRIFT.items():
        # Every leaf moves by the same share, so the drift is known.
        share = np.float32(1 + drift)
        moved = jax.tree.map(lambda leaf, share=share: leaf * share, base)
        _publish(
            pool.entry(name), member_run(name, conf.recipe), moved, corpus, conf,
            pool.identity["base_digest"], pool.identity["recipe"],
        )  # fmt: skip
    ScoreStore(workdir).save(current(workdir, reference_scores(gather(corpus))))
    return workdir


def reference_scores(evaluation: EvaluationSet, notes: tuple[str, ...] = ()) -> Scores:
    """Base model 3 nats a byte; an own member gains 1, another one 0.2 or so."""
    table = concatenate(
        base_row(MEMBERS),
        singles(MEMBERS),
        uniform(MEMBERS),
        proportional(MEMBERS, (1, 2, 3)),
    )
    return scores_of("standard", table, evaluation, notes)


def scores_of(
    name: str, table: Mixtures, evaluation: EvaluationSet, notes: tuple[str, ...] = ()
) -> Scores:
    domains = evaluation.domains
    own_CD = np.array([[m == d for d in domains] for m in table.members])
    noise_MD = np.random.default_rng(0).random((len(table), len(domains)))
    gain_MD = table.w_MC @ (0.2 + 0.8 * own_CD) + 0.1 * noise_MD
    per_byte_MD = 3.0 - table.scale_M[:, None] * gain_MD
    rows = np.arange(len(evaluation))
    nll_MR = per_byte_MD[:, evaluation.domain_R] * evaluation.bytes_R
    predictor = PredictorScores(rows, nll_MR.astype(np.float32))
    predictors = dict.fromkeys(("merge", "ensemble", "members"), predictor)
    return Scores(name, table, evaluation, predictors, notes)


def add_validation(workdir: Path, reference_runs: int, **more) -> Validation:
    """Reference runs that are the merges and some noise."""
    validation = current(workdir, validation_of(workdir, reference_runs, **more))
    save_validation(workdir, validation)
    return validation


def validation_of(
    workdir: Path,
    reference_runs: int,
    replicates: int = 0,
    notes: tuple[str, ...] = (),
    calibration_runs: int = 0,
    noise: float = 0.02,
    bend: float = 0.05,
    **more,
) -> Validation:
    """Reference runs above the merges by `bend`, growing with the spread of weights.

    Args:
      workdir: of the corpus.
      reference_runs: how many held-out runs.
      replicates: how many of them have a replicate.
      notes: what an override admitted.
      calibration_runs: how many more are fitted on.
      noise: standard deviation of reference runs around that.
      bend: the highest distance of a reference run from its merge.
      more: of `compare`.
    """
    corpus = open_corpus(workdir)
    evaluation = gather(corpus)
    # Regressions take seconds, and many tests ask for the same reference runs.
    key = (evaluation.digest, reference_runs, replicates, notes, calibration_runs,
           noise, bend, repr(more))  # fmt: skip
    if key in _KNOWN:
        return copy.deepcopy(_KNOWN[key])
    rng = np.random.default_rng(1)
    held_out = _measured("reference", reference_runs, evaluation, rng, noise, bend)
    fitted = pairs = None
    if calibration_runs:
        fitted = _measured("fit", calibration_runs, evaluation, rng, noise, bend)
    if replicates:
        first_PD = held_out.test["reference"][:replicates]
        pairs = (first_PD, first_PD + rng.normal(0, 0.01, first_PD.shape))
    standard = reference_scores(evaluation, notes)
    _KNOWN[key] = compare(
        pool_losses(corpus, standard, singles_known=True),
        held_out,
        fitted,
        replicates=pairs,
        held_out_replicates=replicates,
        **{"distributions": (DISTRIBUTION * 9)[:reference_runs], **more},
    )
    return copy.deepcopy(_KNOWN[key])


def _measured(
    name: str,
    count: int,
    evaluation: EvaluationSet,
    rng: np.random.Generator,
    noise: float,
    bend: float,
) -> PredictionTable:
    w_MC = rng.dirichlet(np.ones(len(MEMBERS)), count)
    runs = [
        Run(f"{name}-{i}", "reference", dict(zip(MEMBERS, w_C, strict=True)), 4)
        for i, w_C in enumerate(w_MC)
    ]
    predictors = scores_of("mixtures", mixture_table(MEMBERS, runs), evaluation)
    bits_MD = predictors.bits_per_byte("merge", "test")
    spread_M1 = 1.5 * (1 - np.sum(w_MC**2, axis=1))[:, None]
    run_MD = rng.normal(0, noise, bits_MD.shape)
    bits = dict.fromkeys(("merge", "ensemble", "members"), bits_MD)
    bits["reference"] = bits_MD + bend * spread_M1 + run_MD
    names = tuple(f"{name}-{i}" for i in range(count))
    return PredictionTable(names, w_MC, bits, bits)


def diagnostics_of(verdict: str = "trust", below_noise: bool = False) -> Diagnostics:
    """Three members that moved as `DRIFT` says, and smooth paths to them."""
    scales = [0.0, 0.25, 0.5, 0.75, 1.0]
    lines = {
        name: {"scale": scales, "macro": [3.0 - 0.4 * s + 0.1 * s * s for s in scales]}
        for name in MEMBERS
    }
    lines["uniform"] = {
        "scale": [*scales, 1.5],
        "macro": [3.0, 2.88, 2.78, 2.7, 2.64, 2.6],
    }
    return Diagnostics(
        verdict=verdict,
        reasons=[f"the reason for '{verdict}'"],
        members=list(MEMBERS),
        drift=dict(DRIFT),
        cosines=[[1.0, 0.25, 0.31], [0.25, 1.0, 0.4], [0.31, 0.4, 1.0]],
        lines=lines,
        line_barriers={"uniform": -0.02, **dict.fromkeys(MEMBERS, -0.006)},
        barriers={"uniform": -0.05, f"{MEMBERS[0]} + {MEMBERS[1]}": -0.031},
        resolution={
            OUTSIDE: 0.9, MEMBERS[0]: None, "macro in-pool": 0.4, "macro": 0.31
        },
        below_noise=below_noise,
        windows=4,
        replicates=0,
        basis=BASIS,
        notes=[],
    )  # fmt: skip


def add_diagnostics(workdir: Path, verdict: str = "trust") -> Diagnostics:
    diagnostics = current(workdir, diagnostics_of(verdict))
    diagnostics.save(workdir)
    return diagnostics


def found_of(trained: bool = False, tied: int = 2) -> SearchResult:
    """Three mixtures and uniform, of which the first few tie."""
    pairs = [(0, 1), (0, 2), (1, 2)]
    rows = [
        _row(f"{MEMBERS[a]} + {MEMBERS[b]}", "subset", {a: 0.5, b: 0.5}, i)
        for i, (a, b) in enumerate(pairs)
    ]
    rows.append(_row("uniform", "uniform", dict.fromkeys(range(3), 1 / 3), 3))
    for i, row in enumerate(rows):
        row["tied"] = i < tied
        row["group"] = i if row["tied"] else None
    return SearchResult(
        target={OUTSIDE: 1.0},
        named={OUTSIDE: 1.0},
        table="subsets-1-2",
        searched=40,
        windows=5,
        dev_windows=1000,
        ties={
            "heading": AFTER_RUNS if trained else BEFORE_RUNS,
            "resampled": "windows",
            "level": SearchConfig().level,
            "min_effect": 0.0,
            "count": tied,
        },
        rows=rows,
        objective="mean",
        method="descend",
        looked_at=5000,
        evaluations=120.0,
        tokens=123_456,
        binding=[
            {
                "name": MEMBERS[0],
                "kind": "max_weight",
                "limit": 0.5,
                "value": 0.5,
                "step": "1 percentage point",
                "gain": 0.0007,
            },
            {
                "name": "",
                "kind": "sources",
                "limit": 2,
                "value": 2,
                "step": "",
                "gain": None,
            },
        ],
        sources={
            MEMBERS[0]: _source(0.5, 0.3, 0.7, 2.5, True),
            MEMBERS[1]: _source(0.5, 0.2, 0.9, 1.5, False),
            MEMBERS[2]: _source(0.0, 0.0, 0.25, 0.0, False),
        },
        range_limit=0.0125,
        against=against_of(0.02, 0.01, 0.03),
        ranking=Ranking(
            "quadratic", "", Misfit(0.0005, 0.02, 20), Misfit(0.001, 0.005, 2)
        ),
        warnings=[f"{MEMBERS[0]} would repeat 2.5 times, its member 1.5"],
        marginal={
            "members": list(MEMBERS),
            "domains": [*MEMBERS, OUTSIDE],
            "bits_DC": [
                [-0.003, 0.001, 0.002],
                [0.001, -0.002, 0.001],
                [0.0, None, -0.004],
                [-0.0012, 0.0003, 0.0009],
            ],
            "objective_C": [-0.0012, 0.0003, 0.0009],
        },
        basis=BASIS,
    )


def chosen_of(found: SearchResult, trained: float = 2.18) -> TrainedChoice:
    """The best of a search and uniform, trained; the same pool and text."""
    mixtures = [
        [found.best["weights"].get(name, 0.0) for name in MEMBERS],
        [1 / len(MEMBERS)] * len(MEMBERS),
    ]
    targets = [*MEMBERS, OUTSIDE, "macro in-pool"]
    values = {"reference": trained, "merge": 2.1, "ensemble": 2.11,
              "members": 2.12}  # fmt: skip
    return TrainedChoice(
        labels=["the best", "even"],
        reference_runs=["reference-best", "reference-even"],
        members=list(MEMBERS),
        mixtures=mixtures,
        targets=targets,
        kinds=["in-pool"] * 3 + ["out-of-pool", "macro"],
        groups={name: name for name in (*MEMBERS, OUTSIDE)},
        points={
            name: {
                target: [value + 0.1 * (target != OUTSIDE), value + 0.04]
                for target in targets
            }
            for name, value in values.items()
        },
        basis=found.basis,
        notes=[],
    )


def on_basis_of(found: SearchResult, validation: Validation) -> Validation:
    """The same reference runs, of the pool and text of a search."""
    return dataclasses.replace(validation, basis=found.basis)


def current(workdir: Path, part):
    """A result, of the pool and text of a workdir."""
    now = current_basis(open_corpus(workdir), open_pool(workdir))
    return dataclasses.replace(part, basis=dataclasses.replace(now, others={}))


def closed_of() -> ClosedForm:
    """Every domain gains what a mixture has of its own member, and a little."""
    domains = [*MEMBERS, OUTSIDE]
    own_DC = np.array([[m == d for m in MEMBERS] for d in domains], float)
    presets = {
        "best": {MEMBERS[0]: 0.5, MEMBERS[1]: 0.5},
        "proportional": dict(zip(MEMBERS, (1 / 6, 2 / 6, 3 / 6), strict=True)),
        "uniform": dict.fromkeys(MEMBERS, 1 / 3),
    }
    linear_DC = 2.8 - 0.8 * own_DC - np.array([0.2, 0.1, 0.0])
    return ClosedForm(
        members=list(MEMBERS),
        domains=domains,
        in_pool=[True] * 3 + [False],
        constant=[0.0] * 4,
        linear=linear_DC.tolist(),
        curve=np.zeros((4, 3, 3)).tolist(),
        base=[3.0] * 4,
        residual=[0.001] * 4,
        checks=20,
        target={OUTSIDE: {OUTSIDE: 1.0}},
        weights={OUTSIDE: 1.0},
        kind="mean",
        presets=[
            {
                "name": name,
                "weights": w,
                "bits": (linear_DC @ [w.get(m, 0.0) for m in MEMBERS]).tolist(),
            }
            for name, w in presets.items()
        ],
        reference="proportional",
        most=[None] * 3,
        refusal="",
        calibrated=False,
        basis=BASIS,
    )


def add_search(workdir: Path, trained: bool = False, tied: int = 2) -> SearchResult:
    found = current(workdir, found_of(trained, tied))
    save_search(workdir, found, current(workdir, closed_of()))
    return found


def add_chosen(workdir: Path, found: SearchResult) -> TrainedChoice:
    chosen = chosen_of(found)
    chosen.save(workdir)
    return chosen


def add_reference(workdir: Path, tokens: int) -> None:
    """Publishes a reference run that saw so many tokens; a member saw 256."""
    corpus = open_corpus(workdir)
    pool = open_pool(workdir)
    _, base = pool.base()
    conf = config_of(workdir)
    run = reference_run({MEMBERS[0]: 1.0}, conf.recipe, tokens / 256)
    _publish(
        pool.entry(run.name), run, base, corpus, conf,
        pool.identity["base_digest"], pool.identity["recipe"],
    )  # fmt: skip


def config_of(workdir: Path) -> Config:
    from jaxsim.config import load_config

    return load_config(workdir / "config.json")


def _source(weight, low, high, epochs, extrapolated) -> dict:
    return {
        "weight": weight,
        "low": low,
        "high": high,
        "epochs": epochs,
        "member_epochs": 1.5,
        "extrapolated": extrapolated,
        "gain": 0.02,
        "gain_low": 0.01,
        "gain_high": 0.03,
    }


def _row(name: str, kind: str, weights: dict[int, float], place: int) -> dict:
    return {
        "name": name,
        "kind": kind,
        "weights": {MEMBERS[c]: w for c, w in weights.items()},
        "scale": 1.0,
        "shift": 0.0,
        "test_shift": 0.0,
        "dev": 2.0 + 0.01 * place,
        "test": 2.1 + 0.01 * place,
        "quadratic": 2.001 + 0.01 * place,
        "ensemble": 2.2 + 0.01 * place,
        "members": 2.3 + 0.01 * place,
        "difference": 0.01 * place,
        "error": 0.005 * bool(place),
        "limit": 0.0125 * bool(place),
        "tied": True,
        "group": place,
    }


def against_of(gain: float, low: float | None, high: float | None) -> dict:
    """The answer against all that it is compared with."""
    row = {"value": 2.1 / (1 - gain), "gain": gain, "low": low, "high": high}
    return {name: dict(row) for name in ("uniform", "proportional", "base")}


def _publish(entry, run, params, corpus, conf, base_digest, recipe) -> None:
    attempt, files = save_attempt(entry, params)
    publish(
        entry,
        Manifest(
            name=entry.name,
            kind=run.kind,
            attempt=attempt,
            params_digest=params_digest(params),
            files=files,
            leaves={
                path: (list(leaf.shape), str(leaf.dtype))
                for path, leaf in leaves_by_path(params).items()
            },
            finite=True,
            base_digest=base_digest,
            tokenizer_digest=corpus.tokenizer_digest,
            data_digests={unit: corpus.unit(unit).digest for unit in run.mixture},
            recipe=recipe,
            model=dataclasses.asdict(conf.model),
            mixture=dict(run.mixture),
            steps=run.steps,
            data_seed=run.data_seed,
            tokens=run.steps * 2 * conf.model.length,
            unique_tokens=256,
            epochs={entry.name: 1.5},
            final_loss=2.0,
            wall_seconds=3.0,
            device_seconds=3.0,
            flops=1e9,
            provenance={
                "versions": {"jaxsim": "0"},
                "git_revision": "unknown",
                "device": {"kind": "cpu", "count": 1},
            },
        ),
    )
