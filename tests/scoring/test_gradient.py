"""Derivatives against finite differences in float64, and their invariances."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from jaxsim.errors import DamagedError, JaxsimError, UserError
from jaxsim.model import Execution
from jaxsim.scoring.evaluation import scored_mask
from jaxsim.scoring.evaluator import Evaluator, Programs
from jaxsim.scoring.program import merge
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.table import dirichlet, singles
from jaxsim.search.answer import marginal_values

from . import tiny

# Sums of float32 losses and of float32 products over all parameters, in
# another order. The largest derivative of a set stands for the rounding of
# those that nearly cancel.
SAME = 1e-5
# Of weights and scale. A larger one sees the curvature of norms of vectors near
# zero, which some windows have; a smaller one rounds.
STEP = 3e-5


@pytest.fixture(scope="module")
def rows(scorer):
    return np.arange(len(scorer.evaluation))


@pytest.fixture(scope="module")
def short(scorer, rows):
    """Of one length bucket, and so with one program to compile."""
    return rows[scorer.evaluation.length_R <= 8]


@pytest.fixture(scope="module")
def long(scorer, rows):
    """Of another one, with many windows in every domain."""
    return rows[scorer.evaluation.length_R > 16]


@pytest.fixture(scope="module")
def make(scorer):
    """An evaluator of the scorer's stack with other settings."""

    def build(mesh: Mesh | None = None, stack=None, **settings):
        model, stack = scorer.pool.model, stack or scorer.stack
        config = dataclasses.replace(scorer.config, **settings)
        pool = stack.on(mesh or scorer.stack.mesh, model)
        return Evaluator(model, pool, scorer.evaluation, config)

    return build


@pytest.fixture(scope="module")
def evaluator(make):
    return make()


@pytest.fixture(scope="module")
def w_C(scorer):
    return dirichlet(scorer.members, 1, 1.0, seed=0).w_MC[0]


def assert_same(actual, expected, tolerance=SAME):
    """Differences count in shares of the largest value."""
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=tolerance * np.max(np.abs(expected))
    )


class Float64:
    """The same pool in float64, differentiated both ways."""

    def __init__(self, scorer, make):
        stack = scorer.stack
        wide = jax.tree.map(
            lambda x: np.asarray(x, np.float64), (stack.base, stack.delta_C)
        )
        stack = dataclasses.replace(stack, base=wide[0], delta_C=wide[1])
        self.evaluation = scorer.evaluation
        model = scorer.pool.model
        execution = Execution(unroll=False, precision="float64")
        mask_RL = scored_mask(self.evaluation, np.arange(len(self.evaluation)))

        def losses(w_C, scale):
            params = merge(*wide, w_C, scale)
            nll_RL = model.token_nll(params, self.evaluation.tokens_RL1, execution)
            return (nll_RL * mask_RL).sum(-1)

        self._losses = jax.jit(losses)
        self.evaluator = make(stack=stack, precision="float64")

    def losses(self, w_C, scale) -> np.ndarray:
        nll_R = np.asarray(self._losses(w_C, np.float64(scale)))
        assert nll_R.dtype == np.float64
        return nll_R

    def domains(self, w_C, scale) -> np.ndarray:
        e = self.evaluation
        return np.bincount(e.domain_R, self.losses(w_C, scale), len(e.domains))

    def jacobian(self, w_C, scale):
        """dw_DC, dscale_D: central, extrapolated from two steps to h**4."""

        def along(move):
            near, far = (
                (self.domains(*move(h)) - self.domains(*move(-h))) / (2 * h)
                for h in (STEP, 2 * STEP)
            )
            return (4 * near - far) / 3

        identity_CC = np.eye(len(w_C))
        dw_CD = [along(lambda h, e=e: (w_C + h * e, scale)) for e in identity_CC]
        return np.array(dw_CD).T, along(lambda h: (w_C, scale + h))


@pytest.fixture(scope="module")
def exact(scorer, make):
    with jax.enable_x64(True):
        return Float64(scorer, make)


# None is a mixture of all members; at scale 0 all mixtures are the base model.
POINTS = ((None, 1.0), (None, 1.7), (np.array([0.0, 1.0, 0.0, 0.0]), 1.0), (None, 0.0))


def test_finite_differences(evaluator, exact, rows, w_C):
    for given_C, scale in POINTS:
        at_C = w_C if given_C is None else given_C
        with jax.enable_x64(True):
            dw_DC, dscale_D = exact.jacobian(at_C, scale)
            nll_R = exact.losses(at_C, scale)
            wide = exact.evaluator.jacobian(at_C, scale, rows)
        assert_same(wide.nll_R, nll_R, 1e-12)
        narrow = evaluator.jacobian(at_C, scale, rows)
        for jacobian, tolerance in ((wide, 1e-7), (narrow, 1e-4)):
            assert_same(jacobian.dscale_D, dscale_D, tolerance)
            assert_same(jacobian.dw_DC, dw_DC, tolerance)
        # It says something: domains and members differ by far more.
        assert np.ptp(dscale_D) > 1e-2 * np.max(np.abs(dscale_D))
        assert (np.ptp(dw_DC) > 1e-2 * np.max(np.abs(dw_DC))) == (scale != 0)


def test_losses_are_the_evaluators(scorer, evaluator, rows):
    table = dirichlet(scorer.members, 1, 1.0, seed=1)
    some = rows[::-3]
    nll_R = evaluator.jacobian(table.w_MC[0], 1.0, some).nll_R
    evaluated = scorer.merge(table, some).nll_MR[0]
    np.testing.assert_allclose(nll_R, evaluated, rtol=2e-6)


def test_domains_without_windows_are_zero(scorer, evaluator, rows, w_C):
    domain_R = scorer.evaluation.domain_R
    jacobian = evaluator.jacobian(w_C, 1.0, rows[domain_R == 2])
    for array_D in (jacobian.dscale_D, jacobian.dw_DC):
        assert array_D[2].all()
        assert not np.delete(array_D, 2, axis=0).any()


def assert_agree(actual, expected, w_C, rows):
    """In everything that two evaluators give."""
    one, other = (each.jacobian(w_C, 1.0, rows) for each in (actual, expected))
    for field in dataclasses.fields(one):
        assert_same(getattr(one, field.name), getattr(other, field.name))


@pytest.mark.parametrize("settings", [{"rows": 1}, {"rows": 0}])
def test_blocks_do_not_matter(make, evaluator, long, w_C, settings):
    assert_agree(make(**settings), evaluator, w_C, long)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")
@pytest.mark.parametrize(("devices", "model_axis"), [(1, 1), (4, 1), (8, 2)])
def test_layouts_agree(scorer, evaluator, long, w_C, devices, model_axis):
    mesh = jax.make_mesh(
        (devices // model_axis, model_axis),
        ("mixture", "model"),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=jax.devices()[:devices],
    )
    model = scorer.pool.model
    config = dataclasses.replace(scorer.config, rows=1)
    spread = Evaluator(model, scorer.stack.on(mesh, model), scorer.evaluation, config)
    assert_agree(spread, evaluator, w_C, long)


def lowered(evaluator, length=8) -> jax.stages.Lowered:
    programs = evaluator.programs
    return programs.lowered(programs.layout(gradient=True), length, gradient=True)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")
def test_devices_exchange_no_gradient(scorer, evaluator):
    """Only the inner products, once."""
    text = lowered(evaluator).compile().as_text()
    (reduced,) = re.findall(r"(.*) (?:all-|reduce-scatter|collective-)[\w-]*\(", text)
    assert f" = f32[{len(scorer.members)}]" in reduced


def test_a_damaged_member_has_no_derivative(scorer, make, short):
    sound = scorer.stack
    members = scorer.members
    w_C = np.array([0.5, 0.0, 0.5, 0.0])

    def without(d_C):
        d_C = np.array(d_C)
        d_C[:, 1] = 0
        return d_C

    delta_C = jax.tree.map(without, sound.delta_C)
    stack = dataclasses.replace(sound, delta_C=delta_C, damaged=frozenset({members[1]}))
    evaluator = make(stack=stack)
    dw_C = evaluator.jacobian(w_C, 1.0, short).dw_DC.sum(0)
    np.testing.assert_array_equal(dw_C == 0, [False, True, False, False])


def test_an_infinite_loss_is_refused(evaluator, short, w_C):
    with pytest.raises(JaxsimError, match="not finite"):
        evaluator.jacobian(w_C, 1e30, short)


def test_a_damaged_member_is_refused(workdir, config):
    tiny.flip(tiny.largest_file(workdir / "pool/members/solo"))
    scorer = Scorer(workdir, config.score, override=True)
    w_C = np.eye(4)[scorer.members.index("solo")]
    with pytest.raises(DamagedError, match="'solo', which is damaged"):
        scorer.jacobian(w_C, 1.0, np.arange(4))


def test_an_override_leaves_no_derivative_for_a_repaired_pool(workdir, config):
    """The damaged member's digest is that of the sound one."""
    path = tiny.largest_file(workdir / "pool/members/solo")
    sound, w_C, rows = path.read_bytes(), np.array([0.5, 0.5, 0.0, 0.0]), np.arange(9)
    tiny.flip(path)
    solo = tiny.MEMBERS.index("solo")
    damaged = Scorer(workdir, config.score, override=True).jacobian(w_C, 1.0, rows)
    assert not damaged.dw_DC[:, solo].any()
    path.write_bytes(sound)
    found = Scorer(workdir, config.score).jacobian(w_C, 1.0, rows)
    assert found.dw_DC[:, solo].any()


def test_programs_do_not_grow_with_windows(make, rows, w_C):
    """Each is compiled once, for blocks of one shape, and keeps one block."""
    evaluator = make()
    live, programs = [], []
    for some in (np.tile(rows, 3), rows, rows[:9]):
        evaluator.jacobian(w_C, 1.0, some)
        live.append(sum(x.nbytes for x in jax.live_arrays()))
        programs.append(len(evaluator.programs._compiled))
    assert programs[0] == programs[1] == programs[2]
    assert live[0] == live[1] == live[2]


def test_the_gradient_is_summed_in_place(evaluator, scorer):
    """Beside the merged model and one block there is one sum, not one a block."""
    program = evaluator.programs.compiled(
        evaluator.programs.layout(gradient=True), 8, gradient=True
    )
    layout = evaluator.programs.layout(gradient=True)
    small = dataclasses.replace(layout, blocks=1)
    fewer = evaluator.programs.compiled(small, 8, gradient=True)
    sizes = [each.memory_analysis().temp_size_in_bytes for each in (program, fewer)]
    windows = layout.blocks * layout.shape(8)[1]
    assert sizes[0] - sizes[1] <= 3 * 4 * windows  # their nats


def test_activations_that_do_not_fit_are_computed_again(
    make, evaluator, short, w_C, monkeypatch
):
    needed = Programs.needed

    def more_without_remat(self, program):
        remats = [k[1] for k, p in self._compiled.items() if p is program]
        return 2e9 if remats[0] == "none" else needed(self, program)

    monkeypatch.setattr(Programs, "needed", more_without_remat)
    small = make(memory=1.9)
    assert small.programs.layout(gradient=True).remat == "full"
    assert_same(
        small.jacobian(w_C, 1.0, short).dw_DC, evaluator.jacobian(w_C, 1.0, short).dw_DC
    )
    products, more = (
        lowered(each).as_text().count("dot_general") for each in (evaluator, small)
    )
    assert more > products


def test_a_block_that_does_not_fit_is_refused(make, short, w_C):
    with pytest.raises(UserError, match=r"needs [\d,]+ bytes.*score\.rows"):
        make(memory=1e-6).jacobian(w_C, 1.0, short)


def test_bfloat16_is_near(make, evaluator, short, w_C):
    """Only the model's products are bfloat16: 8 bits of mantissa."""
    near = make(precision="bfloat16").jacobian(w_C, 1.0, short)
    exact = evaluator.jacobian(w_C, 1.0, short)
    assert not np.allclose(near.dw_DC, exact.dw_DC, rtol=1e-5)
    assert_same(near.dw_DC, exact.dw_DC, 3e-2)


def test_marginal_values_by_hand():
    dw_DC = np.array([[4.0, 8.0], [0.0, -8.0]])
    bits_DC = marginal_values(
        dw_DC, np.array([0.75, 0.25]), np.array([10, 100]), share=0.1
    )
    # Means 5 and -2; to the second member, 0.1 * 3 nats over 10 bytes.
    expected = np.array([[-0.01, 0.03], [0.002, -0.006]]) / np.log(2)
    np.testing.assert_allclose(bits_DC, expected)


def test_the_weighted_mean_of_marginal_values_is_zero():
    rng = np.random.default_rng(0)
    w_C = rng.dirichlet(np.ones(7))
    bits_DC = marginal_values(rng.normal(size=(3, 7)), w_C, np.array([5, 1, 90]))
    np.testing.assert_allclose(bits_DC @ w_C, 0, atol=1e-15)


def test_a_domain_without_text_has_no_marginal_value():
    bits_DC = marginal_values(np.zeros((2, 3)), np.eye(3)[0], np.array([0, 9]))
    assert np.isnan(bits_DC[0]).all()
    assert not bits_DC[1].any()


def test_moving_tokens_changes_the_scores(scorer):
    """By the marginal values, up to the square of the share."""
    e, members = scorer.evaluation, scorer.members
    rows = np.arange(len(e))
    jacobian = scorer.evaluator.jacobian
    share = 1e-3  # the tiny model is far from linear
    (w_C,) = dirichlet(members, 1, 1.0, seed=3).w_MC
    bytes_D = np.bincount(e.domain_R, e.bytes_R)
    value_DC = marginal_values(jacobian(w_C, 1.0, rows).dw_DC, w_C, bytes_D, share)
    moved_MC = w_C + share * np.concatenate(
        [np.eye(len(members)) - w_C, w_C - np.eye(len(members))]
    )
    table = singles(members)
    table = dataclasses.replace(
        table,
        names=tuple(f"moved {i}" for i in range(len(moved_MC))),
        kinds=("given",) * len(moved_MC),
        w_MC=moved_MC,
        scale_M=np.ones(len(moved_MC)),
    )
    nll_MR = scorer.merge(table, rows).nll_MR
    nll_MD = np.array([np.bincount(e.domain_R, nll_R) for nll_R in nll_MR])
    bits_MD = nll_MD / (bytes_D * np.log(2))
    up_CD, down_CD = np.split(bits_MD, 2)
    np.testing.assert_allclose(
        value_DC, (up_CD - down_CD).T / 2, atol=1e-2 * np.abs(value_DC).max()
    )
