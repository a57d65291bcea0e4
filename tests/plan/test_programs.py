"""What the real programs exchange and hold, on eight devices."""

import dataclasses
import re

import jax
import pytest

from jaxsim.compiling import TooLarge
from jaxsim.errors import UserError
from jaxsim.mixture.plan import bytes_of
from jaxsim.plan.hlo import Module
from jaxsim.plan.programs import Program, group_step, scoring, train_step
from jaxsim.plan.report import held_by_several, report_on

from . import small

needs_eight = pytest.mark.skipif(
    jax.device_count() < 8, reason="needs 8 devices"
)
MATRIX = 1024  # bytes on a device: norms have less, matrices have more


def _step(data: int, model: int) -> Program:
    config = small.changed("train", data_axis=data, model_axis=model)
    return train_step(config, small.MODEL, jax.devices())


@pytest.fixture(scope="module")
def group():
    return group_step(small.CONFIG, small.MODEL, jax.devices())


@pytest.fixture(scope="module")
def divided():
    return _step(4, 2)


@needs_eight
def test_members_side_by_side_exchange_nothing(group):
    report = report_on(group)
    assert report.collectives == []
    assert held_by_several(group.arguments, MATRIX) == []
    assert report.flops == small.ROWS * 32 * 3 * small.MODEL.forward_flops(1)


@needs_eight
def test_one_run_over_a_mesh_exchanges_what_is_expected(divided):
    report = report_on(divided)
    kinds = {call.kind for call in report.collectives}
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
    counts = [c.count for c in report.collectives if c.kind == "all-gather"]
    assert max(counts) >= small.CONFIG.model.layers
    state, *_ = divided.arguments
    assert held_by_several(state, MATRIX) == []


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
def test_bytes_are_what_the_shardings_say(divided, group):
    for program in (divided, group):
        report = report_on(program)
        state, *_ = program.arguments
        assert report.memory is not None
        # The compiler leaves out the run's length where no rate falls.
        assert 0 <= report.arguments - report.memory.arguments <= 4
        assert report.memory.donated == bytes_of(state)
        assert report.needed > report.arguments
    # Parameters, two moments and the tail's sum, in float32, on 8 devices.
    # What is not divided by all of them is norms.
    parameters = 4 * small.MODEL.parameter_count()
    state, *_ = divided.arguments
    assert 4 * parameters / 8 < bytes_of(state) < 1.1 * 4 * parameters / 8
    state, *_ = group.arguments
    assert bytes_of(state) == 4 * parameters + 12  # and three counters


@needs_eight
def test_mixtures_over_devices_exchange_nothing():
    program, plan = scoring(small.CONFIG, small.MODEL, 3, jax.devices())
    report = report_on(program)
    assert report.collectives == []
    assert plan.layout == (8, 1)
    assert report.memory is not None
    assert report.memory.arguments == report.arguments
    # The pool is on each of them, and is said to be.
    held = held_by_several(program.arguments, MATRIX)
    assert {h.devices for h in held} == {8}
    assert sum(h.size for h in held) > 4 * 4 * small.MODEL.parameter_count()


@needs_eight
def test_a_divided_model_adds_up():
    """Partial sums within pairs; see also mixture/test_layouts.py."""
    config = small.changed("score", model_axis=2)
    program, plan = scoring(config, small.MODEL, 3, jax.devices())
    report = report_on(program)
    assert plan.layout == (4, 2)
    assert {call.kind for call in report.collectives} == {"all-reduce"}
    assert max(call.size for call in report.collectives) < 2**20


def test_what_the_compiler_refuses_is_reported(group):
    def refuse():
        raise TooLarge(30, 20)

    report = report_on(dataclasses.replace(group, compile=refuse))
    assert (report.memory, report.refused) == (None, (30, 20))
    assert report.needed == 30
    assert not report.fits(0)


def test_cudnn_needs_its_hardware():
    config = small.changed("train", attention="cudnn")
    for program in (train_step, group_step):
        with pytest.raises(UserError, match=r"cudnn.*attention=einsum"):
            program(config, small.MODEL, jax.devices())


def test_loops_count_as_often_as_they_turn():
    """By hand: a loop of 3 around one of 4; one call in two instructions."""
    module = Module(HLO)
    gather, reduce = module.collectives()
    assert (gather.kind, gather.count, gather.size) == ("all-gather", 12, 512)
    assert gather.operator == "jit(f)/while/layer"
    assert (reduce.kind, reduce.count, reduce.size) == ("all-reduce", 3, 64)
    assert [a.shape for a in module.largest(2)] == ["bf16[8,32]", "f32[16]"]


HLO = """\
HloModule jit_f, entry_computation_layout={(f32[4])->f32[4]}

%fused (p: bf16[1,32]) -> bf16[8,32] {
  %p = bf16[1,32]{1,0} parameter(0)
  ROOT %g.1 = bf16[8,32]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=7, dimensions={0}, metadata={op_name="jit(f)/while/layer"}
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
  ROOT %g.3 = bf16[8,32]{1,0} all-gather(%p.2), channel_id=7, dimensions={0}
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
