"""The one evaluator against members scored alone, and its invariances."""

import dataclasses
import itertools
import re

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxsim.errors import JaxsimError
from jaxsim.mesh import scoring_mesh
from jaxsim.model import Execution
from jaxsim.scoring import layout as layouts
from jaxsim.scoring import program
from jaxsim.scoring.evaluator import Evaluator
from jaxsim.scoring.table import (
    base_row,
    concatenate,
    dirichlet,
    macro,
    singles,
    subsets,
    uniform,
)

from . import drawn

# Window losses are sums of up to 32 float32 losses, about 100 nats. A member
# is base model + (member - base model), which rounds once more than the member itself;
# members differ by far more, see `test_members_differ`.
CLOSE = {"rtol": 2e-5}


@pytest.fixture(scope="module")
def rows(scorer):
    return np.arange(len(scorer.evaluation))


@pytest.fixture(scope="module")
def make(scorer):
    """An evaluator of the scorer's stack with other settings."""

    def build(mesh: Mesh | None = None, stack=None, **settings) -> Evaluator:
        model, stack = scorer.pool.model, stack or scorer.stack
        config = dataclasses.replace(scorer.config, **settings)
        pool = stack.on(mesh, model) if mesh else stack
        return Evaluator(model, pool, scorer.evaluation, config)

    return build


@pytest.fixture(scope="module")
def evaluator(make):
    return make()


@pytest.fixture(scope="module")
def alone(scorer):
    """Losses [R] of a parameter tree, with nothing of the evaluator's."""
    e = scorer.evaluation
    model = scorer.pool.model
    execution = Execution(unroll=False, loss_chunk=32)
    nll = jax.jit(lambda p: model.token_nll(p, e.tokens_RL1, execution))

    def losses(params) -> np.ndarray:
        nll_RL = np.asarray(nll(params), np.float64)
        return np.array(
            [
                nll_L[first : first + count].sum()
                for nll_L, first, count in zip(
                    nll_RL, e.first_R, e.count_R, strict=True
                )
            ]
        )

    return losses


@pytest.fixture(scope="module")
def params(scorer):
    """Base model and members as the pool holds them, by name."""
    pool = scorer.pool
    members = pool.manifests("member")
    trees = {name: pool.load(m) for name, m in members.items()}
    return {"base": pool.base()[1]} | trees


def mean_of(*trees):
    return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *trees)


def test_members_differ(params, alone):
    """Otherwise no identity below would say anything."""
    losses = [alone(tree) for tree in params.values()]
    for one, other in itertools.combinations(losses, 2):
        assert np.max(np.abs(one / other - 1)) > 1000 * CLOSE["rtol"]


def test_one_hot_row_is_the_member(scorer, evaluator, params, alone, rows):
    nll_CR = evaluator.score(singles(scorer.members), rows)
    for name, nll_R in zip(scorer.members, nll_CR, strict=True):
        np.testing.assert_allclose(nll_R, alone(params[name]), **CLOSE)


def test_scale_zero_is_the_base_model(scorer, evaluator, params, alone, rows):
    base_R = alone(params["base"])
    anything = dirichlet(scorer.members, 1, 1.0, seed=0)
    zero = dataclasses.replace(anything, scale_M=np.zeros(1))
    for table in (base_row(scorer.members), zero):
        np.testing.assert_allclose(evaluator.score(table, rows)[0], base_R, **CLOSE)


def test_equal_weights_are_the_mean(scorer, evaluator, params, alone, rows):
    mean = mean_of(*(params[name] for name in scorer.members))
    nll_R = evaluator.score(uniform(scorer.members), rows)[0]
    np.testing.assert_allclose(nll_R, alone(mean), **CLOSE)


def test_macro_row_is_the_mean_of_group_means(scorer, evaluator, params, alone, rows):
    a, b, c, d = (params[name] for name in scorer.members)
    group = mean_of(a, b)
    table = macro(scorer.members, ["alpha", "alpha", "beta", "solo"])
    assert table.names == ("macro", "group alpha")
    macro_R, group_R = evaluator.score(table, rows)
    np.testing.assert_allclose(macro_R, alone(mean_of(group, c, d)), **CLOSE)
    np.testing.assert_allclose(group_R, alone(group), **CLOSE)


def test_scale_stretches_the_merge(scorer, evaluator, params, alone, rows):
    table = dirichlet(scorer.members, 1, 1.0, seed=1)
    table = dataclasses.replace(table, scale_M=np.array([1.7]))
    base = params["base"]
    merged = jax.tree.map(
        lambda s, *ms: (
            s + 1.7 * sum(w * (m - s) for w, m in zip(table.w_MC[0], ms, strict=True))
        ).astype(np.float32),
        base,
        *(params[name] for name in scorer.members),
    )
    np.testing.assert_allclose(evaluator.score(table, rows)[0], alone(merged), **CLOSE)


def test_permuting_members_and_weights_changes_nothing(scorer, make, evaluator, rows):
    table = dirichlet(scorer.members, 5, 1.0, seed=2)
    order = [2, 0, 3, 1]
    stack = scorer.stack
    names = tuple(stack.names[c] for c in order)
    other = dataclasses.replace(
        stack,
        names=names,
        digests=tuple(stack.digests[c] for c in order),
        delta_C=jax.tree.map(lambda d_C: d_C[:, np.array(order)], stack.delta_C),
    )
    permuted = dataclasses.replace(table, members=names, w_MC=table.w_MC[:, order])
    np.testing.assert_allclose(
        make(stack=other).score(permuted, rows), evaluator.score(table, rows), **CLOSE
    )


@pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")
@pytest.mark.parametrize("devices", [1, 4])
def test_devices_agree(scorer, make, evaluator, rows, devices):
    mesh = scoring_mesh(1, jax.devices()[:devices])
    assert make(mesh).programs.across == devices
    table = dirichlet(scorer.members, 11, 1.0, seed=3)
    # The same program for a mixture on each of them, but its compilation for
    # another number of devices may order a sum differently.
    np.testing.assert_allclose(
        make(mesh).score(table, rows), evaluator.score(table, rows), rtol=1e-6
    )


@pytest.mark.parametrize(
    "settings", [{"chunk": 8}, {"chunk": 3}, {"rows": 3}, {"rows": 100}]
)
def test_chunks_and_blocks_do_not_matter(scorer, make, evaluator, rows, settings):
    table = dirichlet(scorer.members, 11, 1.0, seed=4)
    np.testing.assert_allclose(
        make(**settings).score(table, rows),
        evaluator.score(table, rows),
        rtol=1e-6,  # blocks of another size may order a sum differently
    )


def test_many_calls_do_not_matter(scorer, make, evaluator, rows, monkeypatch):
    table = dirichlet(scorer.members, 2, 1.0, seed=5)
    expected = evaluator.score(table, rows)
    monkeypatch.setattr(layouts, "_CALL", 256)  # one block
    few = make()
    assert few.programs.layout().blocks == 1
    np.testing.assert_allclose(few.score(table, rows), expected, rtol=1e-6)


def test_some_windows_in_any_order(scorer, make, rows):
    table = dirichlet(scorer.members, 2, 1.0, seed=6)
    expected = make().score(table, rows)
    some = rows[::-3]
    np.testing.assert_allclose(make().score(table, some), expected[:, some], rtol=1e-6)


def lengths(scorer, evaluator: Evaluator, rows: np.ndarray) -> set[int]:
    e = scorer.evaluation
    calls = layouts.arrange(e, rows, evaluator.programs.layout(), 1)
    return {call.blocks.scored_TBL.shape[2] for call in calls}


def test_short_documents_are_padded_little(scorer, make, params, alone, rows):
    """Right padding behind a causal model: the short program is exact."""
    e = scorer.evaluation
    evaluator = make(rows=1)
    for least, most in ((0, 8), (8, 16)):
        some = rows[(e.length_R > least) & (e.length_R <= most)]
        assert len(some)
        # To the next of eight lengths, 4 apart.
        padded = max(lengths(scorer, evaluator, some))
        assert padded - 4 < e.length_R[some].max() <= padded
        nll_R = evaluator.score(singles(scorer.members), some)[0]
        np.testing.assert_allclose(
            nll_R, alone(params[scorer.members[0]])[some], **CLOSE
        )
    # Too few to fill a block of full windows: no program of their own.
    long = rows[e.length_R == 32]
    assert lengths(scorer, make(rows=8), np.append(long, some[:2])) == {32}
    assert len(lengths(scorer, make(rows=1), np.append(long, some))) == 2


def test_blocks_hold_every_window_once(scorer):
    """In places of its own, and as many on every device as there can be."""
    e, rows = scorer.evaluation, np.arange(len(scorer.evaluation))[::-1]
    buckets = (8, 8), (16, 4), (32, 2)
    layout = layouts.Layout(1, windows=2, blocks=3, length=32, buckets=buckets)
    for devices in (1, 4):
        seen = []
        for call in layouts.arrange(e, rows, layout, devices):
            length = call.blocks.scored_TBL.shape[2]
            tokens = call.blocks.tokens_TBL1.reshape(-1, length + 1)[call.places]
            np.testing.assert_array_equal(
                tokens, e.tokens_RL1[rows[call.at], : length + 1]
            )
            scored = call.blocks.scored_TBL.reshape(-1, length)
            assert scored[call.places].sum() == scored.sum()
            per_device = scored.reshape(devices, -1, length).any((1, 2))
            assert per_device.sum() == min(devices, -(-len(call.at) // (64 // length)))
            seen.extend(call.at.tolist())
        assert sorted(seen) == list(range(len(rows)))


def test_tokens_sum_to_windows(scorer, evaluator, rows):
    table = dirichlet(scorer.members, 3, 1.0, seed=7)
    ((_, nll_MRL),) = evaluator.chunks(table, rows, per_token=True)
    np.testing.assert_allclose(
        nll_MRL.astype(np.float64).sum(-1), evaluator.score(table, rows), **CLOSE
    )
    e = scorer.evaluation
    np.testing.assert_array_equal((nll_MRL > 0).sum(-1)[0], e.count_R)


def test_no_table_and_no_windows_compile_again(scorer, make, rows):
    evaluator = make()
    compiled = evaluator.programs._compiled
    evaluator.score(dirichlet(scorer.members, 1, 1.0, seed=8), rows)
    once = dict(compiled)
    for size, some in ((7, rows), (100, rows[:4]), (2, np.tile(rows, 3))):
        table = dirichlet(scorer.members, size, 1.0, seed=8)
        assert evaluator.score(table, some).shape == (size, len(some))
    params = jax.tree.map(np.asarray, scorer.stack.base)
    evaluator.score_model(params, rows[::2])
    assert compiled.keys() == once.keys()


def test_a_model_that_needs_no_merge(scorer, evaluator, params, alone, rows):
    """By the same program: exactly what its own row in a pool would be."""
    for tree in params.values():
        nll_R = evaluator.score_model(tree, rows)
        np.testing.assert_allclose(nll_R, alone(tree), **CLOSE)
    table = base_row(scorer.members)
    base_R = evaluator.score_model(params["base"], rows)
    np.testing.assert_array_equal(base_R, evaluator.score(table, rows)[0])


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(
    ("precision", "product"),
    [
        ("float32", ("HIGHEST", "f32")),
        ("tf32", ("HIGH", "f32")),
        ("bfloat16", ("DEFAULT", "bf16")),
    ],
)
def test_every_product_for_a_gpu_has_its_precision(precision, product, gradient):
    """By default merges would run in TF32, and so would products in float32.

    Merges and inner products are float32 whatever the model computes in.
    """
    evaluator = drawn.evaluator(precision="float32", attention="xla")
    programs = evaluator.programs
    arguments = programs.arguments(programs.layout(gradient), drawn.LENGTH, gradient)
    execution = Execution(unroll=False, attention="xla", precision=precision)
    traced = program.traced(arguments, drawn.MODEL, execution)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    found = re.findall(
        r"dot_general.*?precision = \[(\w+), \w+\].*?tensor<([x\d]*)x(\w+)>,", text
    )
    assert len(found) == text.count("dot_general")
    members = re.compile(rf"\d+x{len(drawn.MEMBERS)}(x\d+)*$")
    merges = [f for f in found if members.match(f[1])]
    assert len(merges) == len(jax.tree.leaves(drawn.MODEL.shapes())) * (1 + gradient)
    assert {(p, dtype) for p, _, dtype in merges} == {("HIGHEST", "f32")}
    others = [f for f in found if not members.match(f[1])]
    # Softmax gives its gradient in float32, for products in bfloat16 too.
    assert {(p, dtype) for p, _, dtype in others} - {("DEFAULT", "f32")} == {product}
    assert len(others) >= 9


def test_an_unusable_row_is_refused_by_name(scorer, make, rows):
    stack = scorer.stack
    damaged = dataclasses.replace(stack, damaged=frozenset({"solo"}))
    table = concatenate(base_row(scorer.members), subsets(scorer.members, 2, 2))
    evaluator = make(stack=damaged)
    with pytest.raises(JaxsimError, match=r"'alpha,1900-1909 \+ solo' uses"):
        evaluator.score(table, rows)
    free = [i for i in range(len(table)) if "solo" not in table.names[i]]
    assert np.isfinite(evaluator.score(table.take(free), rows)).all()


def test_bfloat16_is_near(scorer, make, evaluator, rows):
    """Only the model's products are bfloat16: 8 bits of mantissa."""
    table = dirichlet(scorer.members, 2, 1.0, seed=10)
    nll_MR = make(precision="bfloat16").score(table, rows)
    exact_MR = evaluator.score(table, rows)
    assert not np.allclose(nll_MR, exact_MR, rtol=1e-6)
    np.testing.assert_allclose(nll_MR.sum(), exact_MR.sum(), rtol=2e-3)
