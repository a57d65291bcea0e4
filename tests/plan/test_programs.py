"""What the real programs exchange and replicate on eight devices."""

import dataclasses
import re
from typing import Any

import jax
import pytest
from hlo import Collective, Module, device_groups

from jaxsim.devices import TooLarge
from jaxsim.errors import UserError
from jaxsim.plan.programs import Program, compile_program, scoring, train_step
from jaxsim.scoring.layout import bytes_of

from . import small

needs_eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
MATRIX = 1024  # bytes on a device: norms have less, matrices have more


def collectives(program: Program) -> list[Collective]:
    return Module(program.compile().as_text()).collectives()


def replicated(arguments: Any) -> dict[str, int]:
    """The number of devices that hold the same values, for each replicated matrix."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(arguments):
        size = bytes_of(leaf)
        whole = leaf.size * leaf.dtype.itemsize
        devices = round(size * len(leaf.sharding.device_set) / whole)
        if devices > 1 and size >= MATRIX:
            found[jax.tree_util.keystr(path)] = devices
    return found


def _step(data: int, model: int) -> Program:
    config = small.changed("train", data_axis=data, model_axis=model)
    return train_step(config, small.MODEL, jax.devices())


@pytest.fixture(scope="module")
def group():
    return train_step(small.CONFIG, small.MODEL, jax.devices(), parallel=True)


@pytest.fixture(scope="module")
def divided():
    return _step(4, 2)


@needs_eight
def test_vectorized_runs_exchange_nothing(group):
    assert collectives(group) == []
    assert replicated(group.arguments) == {}
    tokens = small.ROWS * 32
    assert compile_program(group).flops == 3 * small.MODEL.forward_flops(tokens)


@needs_eight
def test_one_run_over_a_mesh_exchanges_what_is_expected(divided):
    calls = collectives(divided)
    kinds = {call.kind for call in calls}
    assert kinds >= {"all-gather", "all-reduce"}
    # Lookups of an embedding whose width is divided send rows to their place.
    assert kinds <= {
        "all-gather",
        "all-reduce",
        "reduce-scatter",
        "all-to-all",
        "collective-permute",
    }
    # Layers are gathered one at a time, in every turn of the loop.
    counts = [call.count for call in calls if call.kind == "all-gather"]
    assert max(counts) >= small.CONFIG.model.layers
    state, *_ = divided.arguments
    assert replicated(state) == {}


@needs_eight
@pytest.mark.parametrize("mesh", [(8, 1), (4, 2)])
def test_rows_of_a_batch_stay_divided(mesh):
    """No device computes, or gathers, the hidden states of all rows."""
    text = _step(*mesh).compile().as_text()
    whole = re.findall(rf"\b(?:f32|bf16)\[{small.ROWS},\d+,\d+[\],]", text)
    assert whole == []
    local = small.ROWS // mesh[0]
    assert re.search(rf"\bf32\[{local},32,64\]", text)


@needs_eight
@pytest.mark.parametrize("mesh", [(8, 1), (4, 2), (2, 2)])
def test_chunks_of_the_loss_need_no_more_exchange(mesh):
    """The head is gathered once, its gradient summed once, no logit sent."""
    data, model = mesh
    moved = []
    for chunk in (16, 4):
        config = small.changed(
            "train", data_axis=data, model_axis=model, loss_chunk=chunk
        )
        devices = jax.devices()[: data * model]
        calls = collectives(train_step(config, small.MODEL, devices))
        moved.append(sum(call.count * call.size for call in calls))
        in_loss = [call for call in calls if "(loss)" in call.operator]
        assert in_loss
        if model == 1:
            assert {call.count for call in in_loss} == {1}
        width = small.VOCABULARY // model
        logits = rf"\[{small.ROWS // data},\d+,({width}|{small.VOCABULARY})\]"
        assert not [c for c in calls if re.search(logits, c.shapes)]
    assert moved[0] == moved[1]


@needs_eight
def test_bytes_follow_from_the_shardings(divided, group):
    for program in (divided, group):
        report = compile_program(program)
        state, *_ = program.arguments
        assert report.memory is not None
        assert report.arguments == report.memory.arguments
        assert report.memory.donated == bytes_of(state)
        assert report.needed > report.arguments
    # Parameters, two moments and the tail's sum, in float32, on 8 devices.
    # What is not divided by all of them is norms.
    parameters = 4 * small.MODEL.parameter_count()
    state, *_ = divided.arguments
    assert 4 * parameters / 8 < bytes_of(state) < 1.1 * 4 * parameters / 8
    state, *_ = group.arguments
    assert bytes_of(state) == 4 * parameters + 20  # and five counters


@needs_eight
def test_mixtures_over_devices_exchange_nothing():
    program = scoring(small.CONFIG, small.MODEL, 3, jax.devices())
    report = compile_program(program)
    assert collectives(program) == []
    assert program.mesh.shape == {"mixture": 8, "model": 1}
    assert report.memory is not None
    assert report.memory.arguments == report.arguments
    # Each device holds the pool.
    assert set(replicated(program.arguments).values()) == {8}
    parameters = small.MODEL.parameter_count()
    assert bytes_of(program.arguments[:2]) == 4 * 4 * parameters


@needs_eight
def test_a_sharded_pool_exchanges_merged_models():
    """Once a mixture, by pairs of chips; see also scoring/test_layouts.py."""
    config = small.changed("score", model_axis=2)
    program = scoring(config, small.MODEL, 3, jax.devices())
    calls = collectives(program)
    assert program.mesh.shape == {"mixture": 4, "model": 2}
    assert {call.kind for call in calls} == {"all-gather"}
    moved = sum(call.count * call.size for call in calls)
    parameters = 4 * small.MODEL.parameter_count()
    assert 0.9 * parameters < moved / 2 < parameters  # two mixtures at once


def test_a_refusal_of_the_compiler_is_reported(group):
    def refuse():
        raise TooLarge(30, 20)

    report = compile_program(dataclasses.replace(group, compile=refuse))
    assert (report.memory, report.refused) == (None, (30, 20))
    assert report.needed == 30
    assert not report.fits(0)


def test_cudnn_needs_its_hardware():
    config = small.changed("train", attention="cudnn")
    with pytest.raises(UserError, match=r"train.attention='cudnn': needs"):
        train_step(config, small.MODEL, jax.devices())


def test_collectives_in_loops_count_once_for_each_iteration():
    """By hand: a loop of 3 around one of 4; one call in two instructions."""
    gather, reduce = Module(HLO).collectives()
    assert (gather.kind, gather.count, gather.size) == ("all-gather", 12, 512)
    assert gather.operator == "jit(f)/while/layer"
    assert (reduce.kind, reduce.count, reduce.size) == ("all-reduce", 3, 64)


def test_programs_of_the_tpu_compiler_are_parsed():
    """By hand: a counter that goes 0, 2, 4, 6, 8; a sum of which a part is
    kept; other calls that share its channel."""
    ring, scatter, gather = Module(TPU_HLO).collectives()
    assert (ring.kind, ring.count, ring.size) == ("collective-permute", 5, 260)
    assert (scatter.kind, scatter.count) == ("reduce-scatter", 1)
    assert scatter.size == 512
    assert (gather.kind, gather.count, gather.size) == ("all-gather", 2, 128)


def test_groups_of_devices_are_read_in_every_form():
    at = "  %g = f32[8]{0} all-gather(%p), channel_id=1, "
    rows = [
        ("replica_groups={{0,1},{2,3}}, dimensions={0}", [[0, 1], [2, 3]]),
        ("source_target_pairs={{0,2},{2,0}}", [[0, 2], [2, 0]]),
        ("replica_groups=[2,2]<=[4], dimensions={0}", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=1,'b'=2,'c'=2] {'b','c'}", [[0, 1, 2, 3]]),
        (
            "replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, x",
            [[0, 2], [1, 3]],
        ),
    ]
    found = device_groups("\n".join(at + row for row, _ in rows))
    assert found == [groups for _, groups in rows]


HLO = """\
HloModule jit_f, entry_computation_layout={(f32[4])->f32[4]}

%fused (p: bf16[1,32]) -> bf16[8,32] {
  %p = bf16[1,32]{1,0} parameter(0)
  ROOT %g.1 = bf16[8,32]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=7, dimensions={0}, metadata={op_name="jit(f)/while/layer"}, backend_config={"async_collective_fusion_config":{}}
}

%inner_body (a: (s32[], bf16[1,32])) -> (s32[], bf16[1,32]) {
  %a = (s32[], bf16[1,32]{1,0}) parameter(0)
  %x = bf16[1,32]{1,0} get-tuple-element(%a), index=1
  %g = bf16[8,32]{1,0} fusion(%x), kind=kCustom, calls=%fused
  %g.2 = bf16[8,32]{1,0} fusion(%x), kind=kCustom, calls=%fused_again
  ROOT %t = (s32[], bf16[1,32]{1,0}) tuple(%i, %x)
}

%fused_again (p: bf16[1,32]) -> bf16[8,32] {
  %p.2 = bf16[1,32]{1,0} parameter(0)
  ROOT %g.3 = bf16[8,32]{1,0} all-gather(%p.2), channel_id=7, dimensions={0}, backend_config={"async_collective_fusion_config":{}}
}

%inner_condition (a: (s32[], bf16[1,32])) -> pred[] {
  %n = s32[]{:T(128)} constant(4)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%outer_body (b: (s32[], f32[16])) -> (s32[], f32[16]) {
  %y = f32[16]{0} get-tuple-element(%b), index=1
  %r = f32[16]{0} all-reduce(%y), channel_id=8, to_apply=%add
  %loop = (s32[], bf16[1,32]{1,0}) while(%init), condition=%inner_condition, body=%inner_body
  ROOT %u = (s32[], f32[16]{0}) tuple(%j, %r)
}

%outer_condition (b: (s32[], f32[16])) -> pred[] {
  ROOT %gt = pred[] compare(%j, %m), direction=LT
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %q = f32[4]{0} parameter(0)
  %w = (s32[], f32[16]{0}) while(%start), condition=%outer_condition, body=%outer_body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %e = f32[4]{0} copy(%q)
}
"""  # noqa: E501


TPU_HLO = """\
HloModule jit_f

%all-reduce-scatter.1 (in: f32[4,32]) -> f32[1,32] {
  %in = f32[4,32]{1,0} parameter(0)
  %all-reduce.5 = f32[4,32]{1,0} all-reduce(%in), channel_id=1, to_apply=%add
  ROOT %slice = f32[1,32]{1,0} dynamic-slice(%all-reduce.5, %id, %zero), dynamic_slice_sizes={1,32}
}

%ring_body (b: (f32[64], u32[])) -> (f32[64], u32[]) {
  %b = (f32[64]{0}, u32[]) parameter(0)
  %two = u32[]{:T(128)} constant(2)
  %part = f32[64]{0} get-tuple-element(%b), index=0
  %i = u32[]{:T(128)} get-tuple-element(%b), index=1
  %sent = (f32[64]{0}, f32[64]{0}, u32[]{:S(2)}) collective-permute-start(%part), channel_id=2, source_target_pairs={{0,1},{1,0}}
  %came = f32[64]{0} collective-permute-done(%sent)
  %next = u32[]{:T(128)} add(%i, %two)
  ROOT %t = (f32[64]{0}, u32[]) tuple(%came, /*index=1*/%next)
}

%ring_condition (c: (f32[64], u32[])) -> pred[] {
  %c = (f32[64]{0}, u32[]) parameter(0)
  %nine = u32[]{:T(128)} constant(9)
  %j = u32[]{:T(128)} get-tuple-element(%c), index=1
  ROOT %lt = pred[] compare(%j, %nine), direction=LT
}

ENTRY %main (p: f32[4,32]) -> f32[1,32] {
  %p = f32[4,32]{1,0} parameter(0)
  %g = f32[32]{0} all-gather(%q), channel_id=1, dimensions={0}
  %h = f32[32]{0} all-gather(%r), channel_id=1, dimensions={0}
  %w = (f32[64]{0}, u32[]) while(%start), condition=%ring_condition, body=%ring_body
  ROOT %f = f32[1,32]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1
}
"""  # noqa: E501
