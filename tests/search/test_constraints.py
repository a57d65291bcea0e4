"""The set of allowed mixtures: inside, on the boundary, and outside."""

import numpy as np
import pytest

from jaxsim.config import SearchConfig
from jaxsim.corpus.store import Unit
from jaxsim.errors import UserError
from jaxsim.search.constraints import binding, feasible, more_epochs
from jaxsim.search.feasible import LEAST, Feasible
from jaxsim.search.objective import Slope

MEMBERS = ("wiki_1", "wiki_2", "code", "mail", "news", "talk", "math", "odes")
PARTITIONS = ("wiki", "wiki", "code", "mail", "news", "talk", "math", "odes")
GROUPS = ("wiki", "wiki", "web", "web", "web", "web", "rest", "rest")
TOKENS = np.array([40, 40, 20, 60, 10, 30, 80, 20.0])
SETS = {
    "anything": {},
    "weights": {
        "min_weight": {"wiki": 0.2, "mail": 0.1},
        "max_weight": {"web": 0.5, "math": 0.05},
    },
    "fixed and excluded": {
        "min_weight": {"web": 0.3},
        "max_weight": {"web": 0.3, "odes": 0.0},
    },
    "supply": {"tokens": 250.0, "epochs": 2.0, "supply": {"wiki": 50.0}},
    "divergence": {"divergence": 0.2},
    "divergence and limits": {
        "divergence": 0.3,
        "prior": "uniform",
        "min_weight": {"wiki": 0.4},
        "max_weight": {"odes": 0.0, "news": 0.02},
    },
    "three sources": {"max_sources": 3},
    "all at once": {
        "max_sources": 4,
        "divergence": 0.9,
        "min_weight": {"web": 0.2},
        "tokens": 200.0,
    },
}
FIXTURES = pytest.mark.parametrize("name", SETS)


def units_of(members, partitions, groups, tokens) -> list[Unit]:
    rows = zip(members, partitions, groups, tokens, strict=True)
    return [Unit(n, p, g, "", 0, t, 0, t) for n, p, g, t in rows]


def make(replay=0.0, base_tokens=np.inf, groups=GROUPS, **config) -> Feasible:
    units = units_of(MEMBERS, PARTITIONS, groups, TOKENS)
    return feasible(SearchConfig(**config), units, np.full(8, 1.5), replay, base_tokens)


def lowest(found: Feasible, slope_C: np.ndarray) -> np.ndarray:
    """The allowed mixture with the least slope . w."""
    slope = Slope(np.zeros(1), np.array(slope_C, float)[None])
    return found.lowest(slope, np.zeros(8), np.zeros((8, 8)))[0]


def allowed(w_MC: np.ndarray, name: str) -> np.ndarray:
    """Which mixtures the configuration allows [M], computed from scratch."""
    config = SearchConfig(**SETS[name])
    inside_M = (w_MC >= 0).all(1) & np.isclose(w_MC.sum(1), 1)
    for sign, shares in ((1, config.max_weight), (-1, config.min_weight)):
        for key, share in shares.items():
            names = zip(MEMBERS, PARTITIONS, GROUPS, strict=True)
            mine = [key in three for three in names]
            inside_M &= sign * (w_MC[:, mine].sum(1) - share) < 1e-6
    if config.tokens:
        supply_C = np.array(TOKENS)
        w_MC = w_MC.copy()
        if config.supply:  # of both units together
            w_MC[:, 0], w_MC[:, 1], supply_C[0] = w_MC[:, :2].sum(1), 0, 50
        epochs_MC = config.tokens * w_MC / supply_C
        inside_M &= (epochs_MC < config.epochs + 1e-5).all(1)
    if config.divergence:
        uniform = config.prior == "uniform"
        prior_C = np.ones(8) / 8 if uniform else TOKENS / TOKENS.sum()
        quotient_MC = np.where(w_MC > 0, w_MC, 1) / prior_C
        far_M = (w_MC * np.log(quotient_MC)).sum(1)
        inside_M &= far_M < config.divergence + 1e-6
    if config.max_sources:
        wiki_M1 = w_MC[:, :2].sum(1, keepdims=True)
        count_M = (np.hstack([wiki_M1, w_MC[:, 2:]]) > 1e-6).sum(1)
        inside_M &= count_M <= config.max_sources
    return inside_M


@FIXTURES
def test_samples_are_allowed_and_differ(name):
    found = make(**SETS[name])
    w_MC = found.sample(300, np.random.default_rng(0))
    assert allowed(w_MC, name).all()
    assert found.contains(w_MC).all()
    again_MC = make(**SETS[name]).sample(300, np.random.default_rng(0))
    np.testing.assert_array_equal(w_MC, again_MC)
    assert len(np.unique(w_MC.round(6), axis=0)) > 250
    # Every member that may have weight gets more than 1 % in some draw.
    open_C = np.array([m != "odes" for m in MEMBERS]) | ("odes" not in str(SETS[name]))
    assert ((w_MC.max(0) > 0.01) == open_C).all()


@FIXTURES
def test_a_trace_of_a_member_is_removed_within_the_limits(name):
    found = make(**SETS[name])
    face = found.face(found.center_C)
    for slope_C in np.random.default_rng(2).standard_normal((20, 8)):
        w_C = lowest(face, slope_C)
        traced_C = np.where(face.open_C & (w_C == 0), 3e-6, w_C)
        new_C = found.cleaned(traced_C / traced_C.sum())
        assert allowed(new_C[None], name)[0]
        assert not ((new_C > 0) & (new_C < LEAST)).any()
        np.testing.assert_allclose(new_C, w_C, atol=1e-4)


@FIXTURES
def test_contains_tells_inside_from_outside(name):
    found = make(**SETS[name])
    w_MC = np.random.default_rng(1).dirichlet(np.full(8, 0.5), 500)
    w_MC = np.vstack([w_MC, found.sample(100, np.random.default_rng(1))])
    np.testing.assert_array_equal(found.contains(w_MC), allowed(w_MC, name))


@pytest.mark.parametrize("name", [n for n in SETS if "max" not in str(SETS[n])])
def test_no_sample_is_below_lowest(name):
    """Linear programs: one function, and the largest of several."""
    found = make(**SETS[name])
    generator = np.random.default_rng(3)
    w_MC = found.sample(1000, generator)
    for slope_PC in generator.normal(size=(5, 3, 8)):
        low_C = lowest(found, slope_PC[0])
        assert allowed(low_C[None], name)[0]
        assert low_C @ slope_PC[0] <= (w_MC @ slope_PC[0]).min() + 1e-8
        value_P, at_C = generator.normal(size=3), w_MC[0]
        low_C, share_P = found.lowest(Slope(value_P, slope_PC), at_C, np.zeros((8, 8)))
        assert allowed(low_C[None], name)[0]
        value_MP = value_P + (w_MC - at_C) @ slope_PC.T
        low_P = value_P + slope_PC @ (low_C - at_C)
        assert low_P.max() <= value_MP.max(1).min() + 1e-8
        # Only the largest functions have multipliers.
        assert share_P.sum() == pytest.approx(1)
        assert share_P @ (low_P.max() - low_P) < 1e-6


def test_no_sample_is_below_a_quadratic_step():
    """A quadratic program with one piece: exact."""
    generator = np.random.default_rng(4)
    for name in ("weights", "divergence and limits"):
        found = make(**SETS[name])
        w_MC = found.sample(2000, generator)
        for _ in range(5):
            root_CC = generator.normal(size=(8, 8))
            hessian_CC = root_CC @ root_CC.T + 0.1 * np.eye(8)
            slope = Slope(np.zeros(1), generator.normal(size=(1, 8)))
            new_C, _ = found.lowest(slope, w_MC[0], hessian_CC)
            assert allowed(new_C[None], name)[0]
            step_MC = np.vstack([new_C, w_MC]) - w_MC[0]
            value_M = step_MC @ slope.slope_PC[0]
            value_M += ((step_MC @ hessian_CC) * step_MC).sum(1) / 2
            assert value_M[0] <= value_M[1:].min() + 1e-9


@pytest.mark.parametrize(
    "config",
    [
        {"min_weight": {"wiki": 0.4, "web": 0.6}},
        {"min_weight": {"wiki": 0.9, "code": 0.1}},
        {"min_weight": {"wiki": 0.2, "mail": 0.8}, "divergence": 3.0},
        {"min_weight": {"wiki": 0.7, "math": 0.3}, "max_sources": 2},
        {"max_weight": {"wiki": 0.3, "web": 0.6, "rest": 0.1}},
        {"min_weight": {"wiki_1": 0.1, "code": 0.2, "odes": 0.7}},
        {"min_weight": {"wiki": 1e-7}, "max_weight": {"wiki": 1e-7}},
        {"tokens": 300.0, "epochs": 1.0},
        {"divergence": 1e-12},
    ],
    ids=lambda config: str(config)[1:-1],
)
def test_limits_may_leave_a_single_mixture(config):
    """Fixed shares, down to a single mixture."""
    found = make(**config)
    generator = np.random.default_rng(5)
    w_MC = found.sample(20, generator)
    slope = Slope(generator.normal(size=2), generator.normal(size=(2, 8)))
    face = found.face(w_MC[0])
    some = [
        w_MC,
        [lowest(face, slope_C) for slope_C in slope.slope_PC],
        [face.lowest(slope, w_MC[0], curve * np.eye(8))[0] for curve in (0, 1)],
    ]
    assert found.contains(np.vstack(some)).all()


@pytest.mark.parametrize("size", [1e-3, 1.0, 10.0])
def test_small_differences_of_slopes_count(size):
    """With a limit on the divergence and two members."""
    units = units_of("ab", "ab", "ab", (59925.0, 393658.0))
    found = feasible(SearchConfig(divergence=0.01), units, np.ones(2), 0.0)
    for far in (1.0, 1e-2, 1e-4, 1e-6):
        for sign in (-1, 1):
            slope_C = size * np.array([1.0, 1.0 + sign * far])
            slope = Slope(np.zeros(1), slope_C[None])
            w_C, _ = found.lowest(slope, np.zeros(2), np.zeros((2, 2)))
            assert found.contains(w_C[None])[0]
            assert sign * (found.center_C[0] - w_C[0]) < -0.01


def test_replay_takes_its_share_of_the_run():
    """It leaves less for the mixture, and has its own supply."""
    found = make(replay=0.5, tokens=400.0, epochs=1.0, base_tokens=200.0)
    w_C = np.eye(8)[6]  # 200 tokens outside replay, from 80
    assert found.plan.epochs(w_C)[6] == pytest.approx(2.5)
    assert lowest(found, -w_C)[6] == pytest.approx(0.4)
    with pytest.raises(UserError, match="replay, 50% of the run, needs"):
        make(replay=0.5, tokens=401.0, epochs=1.0, base_tokens=200.0)
    make(replay=0.5, tokens=401.0, epochs=1.0, supply={"base": 201.0})


def test_units_share_the_supply_of_their_partition():
    found = make(tokens=100.0, epochs=1.0, supply={"wiki": 30.0})
    w_C = lowest(found, [-1, -1, 0, 0, 0, 0, 0, 0])
    assert w_C[:2].sum() == pytest.approx(0.3)
    assert found.plan.epochs(w_C)[:2] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"min_weight": {"nobody": 0.1}}, "min_weight: 'nobody' is not a .*wiki_1"),
        ({"supply": {"nobody": 9.0}}, "supply: 'nobody' is not a member"),
        ({"supply": {"wiki": 9.0, "wiki_1": 5.0}}, "supply.wiki_1: .* already"),
        (
            {"min_weight": {"wiki": 0.6, "code": 0.5, "mail": 0.0}},
            "meets min_weight wiki=0.6, code=0.5 at once; loosen",
        ),
        (
            {"min_weight": {"web": 0.5}, "max_weight": {"web": 0.4, "wiki": 0.9}},
            "meets min_weight web=0.5 and max_weight web=0.4 at once",
        ),
        (
            {"min_weight": {"odes": 0.1}, "max_weight": {"odes": 0.0}},
            "meets min_weight odes=0.1 and max_weight odes=0 at once",
        ),
        (
            {"tokens": 1000.0, "epochs": 3.0},
            "within epochs=3, wiki_1, .* odes can give 90.0% of the 1,000 tokens "
            "planned outside replay; plan fewer tokens, allow",
        ),
        (
            {"tokens": 400.0, "epochs": 1.0, "min_weight": {"news": 0.1}},
            "within epochs=1, news can give 2.5% .*, so none meets min_weight news=",
        ),
        (
            {"divergence": 0.1, "min_weight": {"news": 0.5}},
            r"nearer to the proportional one than .* nats, and 0.1 are",
        ),
        (
            {"max_sources": 1, "min_weight": {"code": 0.1, "wiki": 0.1}},
            "found no 1 partition within the other limits",
        ),
        (
            {"max_sources": 2, "divergence": 0.1},
            "found no 2 partitions within the other limits",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:30],
)  # fmt: skip
def test_contradictions_say_why(config, sentence):
    with pytest.raises(UserError, match=sentence):
        make(**config)


def test_a_single_limit_that_nothing_meets():
    sentence = "no mixture meets max_weight all=0.5; loosen it$"
    with pytest.raises(UserError, match=sentence):
        make(max_weight={"all": 0.5}, groups=("all",) * 8)


def test_an_ambiguous_name_is_refused():
    groups = ("wiki", "wiki", "wiki", *GROUPS[3:])
    with pytest.raises(UserError, match="'wiki' names both a partition and a group"):
        make(max_weight={"wiki": 0.1}, groups=groups)


def test_binding_limits_and_the_gain_of_relaxing_them():
    """The gain is that of the relaxed problem."""
    slope_C = np.array([5.0, 1, 2, 3, 4, 6, 7, 8])
    slope = Slope(np.zeros(1), slope_C[None])
    config = {
        "tokens": 120.0,
        "epochs": 1.0,
        "max_weight": {"web": 0.5},
        "min_weight": {"odes": 0.1, "news": 0.02},
    }
    found = make(**config)
    w_C = lowest(found, slope_C)
    limits = {(x.kind, x.name): x for x in binding(found, w_C, slope)}
    assert set(limits) == {
        ("supply", "wiki_2"),
        ("supply", "code"),
        ("max_weight", "web"),
        ("min_weight", "odes"),
        ("min_weight", "news"),
    }
    for (kind, name), limit in limits.items():
        assert limit.value == pytest.approx(limit.limit)
        relaxed = dict(config)
        if kind == "supply":
            tokens = TOKENS[MEMBERS.index(name)]
            relaxed["supply"] = {name: 1.1 * tokens}
        else:
            step = 0.01 if kind == "max_weight" else -0.01
            relaxed[kind] = config[kind] | {name: config[kind][name] + step}
        gain = slope_C @ (w_C - lowest(make(**relaxed), slope_C))
        assert limit.gain == pytest.approx(gain, abs=1e-9)


def test_divergence_and_sources_bind():
    found = make(divergence=0.2)
    slope_C = np.arange(8.0)
    w_C = lowest(found, slope_C)
    slope = Slope(np.zeros(1), slope_C[None])
    (limit,) = binding(found, w_C, slope)
    assert limit.kind == "divergence" and limit.name == ""
    wider_C = lowest(make(divergence=0.201), slope_C)
    gain = slope_C @ (w_C - wider_C) * 20  # of 0.02 nats
    assert limit.gain == pytest.approx(gain, rel=0.01)
    few = make(max_sources=2)
    assert binding(few, few.center_C, slope)[0].kind == "sources"
    assert binding(few, np.eye(8)[0], slope) == []


def test_members_with_fewer_epochs_than_the_plan_are_named():
    found = make(tokens=100.0, epochs=10.0)  # members: 1.5 epochs
    w_C = np.array([0.3, 0, 0.3, 0, 0.4, 0, 0, 0])
    named = np.array(found.members)[more_epochs(found.plan, w_C)]
    assert named.tolist() == ["news"]  # 4 epochs
    assert not more_epochs(found.plan, w_C, least=4.0).any()
    assert not more_epochs(make().plan, w_C).any()  # no run is planned
    assert not make().plan.epochs(w_C).any()
