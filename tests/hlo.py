"""Parses the text of a compiled program (HLO) for its collectives.

The text lists computations, each a block of instructions. A loop's body is
listed once, however often it runs: instructions of the entry count once, those
of a body as often as the loop iterates.

The TPU compiler writes a reduce-scatter as a computation that is named
`all-reduce-scatter`: an all-reduce and the slice that is kept of it. It is
counted as a reduce-scatter.
"""

import collections
import dataclasses
import math
import re

import numpy as np

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.+?) ([a-z][\w-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_CALLEES = re.compile(
    r"\b(?:calls|to_apply|body|condition|called_computations|"
    r"branch_computations|async_execution_thread_computation)="
    r"(?:\{([^}]*)\}|%?([\w.-]+))"
)
_TRIPS = re.compile(r'"known_trip_count":\s*\{\s*"n":\s*"(\d+)"')
_CONDITION = re.compile(r"\bcondition=%?([\w.-]+)")
_BODY = re.compile(r"\bbody=%?([\w.-]+)")
_NUMBER = re.compile(r" = [su]32\[\]\S* constant\((\d+)\)")
_INDEX = re.compile(r"\bindex=(\d+)")
_SPREAD = "async_collective_fusion_config"
_CHANNEL = re.compile(r"channel_id=(\d+)")
_OPERANDS = re.compile(r"%([\w.-]+)")
_OPERATOR = re.compile(r'op_name="([^"]*)"')
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]+\})\}")
_IOTA = r"(?:\[([\d,]+)\]<=)?\[([\d,]+)\](?:T\(([\d,]+)\))?"
_TILED = re.compile(rf"replica_groups=({_IOTA})")
_OF_MESH = re.compile(
    rf"replica_groups=mesh\[(.*?)\](?:, device_ids=\(({_IOTA})\))? \{{([^}}]*)\}}"
)
_BITS = {"pred": 8, "c64": 64, "c128": 128}


@dataclasses.dataclass(frozen=True)
class Collective:
    """Equal collective calls.

    Attributes:
      kind: one of `KINDS`.
      shapes: result shapes as in the program, without layouts.
      size: bytes of the larger side (operands or results), on one device, in
        one call.
      count: calls in one run of the program, loops included.
      operator: the JAX operation that it belongs to.
    """

    kind: str
    shapes: str
    size: int
    count: int
    operator: str


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    line: str


class Module:
    """The computations of a program."""

    def __init__(self, text: str) -> None:
        self._entry = ""
        self._computations: dict[str, list[_Instruction]] = {}
        here: list[_Instruction] = []
        for line in text.splitlines():
            if head := _COMPUTATION.match(line):
                here = self._computations.setdefault(head[2], [])
                self._entry = head[2] if head[1] else self._entry
            elif found := _INSTRUCTION.match(line):
                here.append(_Instruction(found[1], found[2], found[3], line))
        self._times = self._how_often()

    def collectives(self) -> list[Collective]:
        """Collectives, largest traffic first; unknown loops count once."""
        seen: dict[tuple[str, str], Collective] = {}
        for name, instructions in self._computations.items():
            sizes = {i.name: _size(i.shape) for i in instructions}
            for one in instructions:
                kind = one.opcode.removesuffix("-start")
                if kind not in KINDS or not self._times[name]:
                    continue
                if name.startswith("all-reduce-scatter"):
                    kind = "reduce-scatter"
                shapes = _plain(one.shape)
                key = name, one.name
                # One call that appears in each of several fusions.
                if _SPREAD in one.line and (at := _CHANNEL.search(one.line)):
                    key = shapes, at[1]
                found = Collective(
                    kind, shapes, _moved(one, sizes), self._times[name], _operator(one)
                )
                if key not in seen or found.count > seen[key].count:
                    seen[key] = found
        return _summed(list(seen.values()))

    def _how_often(self) -> dict[str, int]:
        """Counts how often each computation runs in one run of the program."""
        times: dict[str, int] = collections.defaultdict(int)

        def enter(name: str, often: int) -> None:
            times[name] += often
            for one in self._computations.get(name, []):
                turns = self._turns(one) if one.opcode == "while" else 1
                for callee in _callees(one):
                    enter(callee, often * turns)

        enter(self._entry, 1)
        return times

    def _turns(self, loop: _Instruction) -> int:
        """Iterations of a loop, from the compiler or its counter's bound."""
        if said := _TRIPS.search(loop.line):
            return int(said[1])
        # A counter goes from 0 while it is less than a constant.
        condition = self._named(_CONDITION.search(loop.line))
        bounds = [
            int(found[1]) for one in condition if (found := _NUMBER.search(one.line))
        ]
        step = self._step(condition, self._named(_BODY.search(loop.line)))
        return -(-max(bounds, default=1) // step)

    def _named(self, found: re.Match[str] | None) -> list[_Instruction]:
        return self._computations.get(found[1], []) if found else []

    @staticmethod
    def _step(condition: list[_Instruction], body: list[_Instruction]) -> int:
        """What an iteration adds to the counter: 2 if unrolled by two."""
        by_name = {one.name: one for one in body}
        counters = [
            int(found[1])
            for one in condition
            if one.opcode == "get-tuple-element" and (found := _INDEX.search(one.line))
        ]
        # The last instruction is the tuple that the next iteration starts from.
        if len(counters) != 1 or not body or body[-1].opcode != "tuple":
            return 1
        added = by_name.get(_operands(body[-1])[counters[0]])
        if added is None or added.opcode != "add":
            return 1
        steps = [
            int(found[1])
            for name in _operands(added)
            if name in by_name and (found := _NUMBER.search(by_name[name].line))
        ]
        return max(steps, default=1)


def device_groups(text: str) -> list[list[list[int]]]:
    """For each collective instruction, the groups of devices that it joins."""
    return [
        _groups(line)
        for line in text.splitlines()
        if (found := _INSTRUCTION.match(line))
        and found[3].removesuffix("-start") in KINDS
    ]


def _groups(line: str) -> list[list[int]]:
    """`{{0,1},{2,3}}`, `[2,2]<=[4]`, or `mesh['a'=2,'b'=2] {'b'}`."""
    if listed := _LISTED.search(line):
        return [_numbers(group) for group in re.findall(r"\{([\d,]+)\}", listed[1])]
    if of_mesh := _OF_MESH.search(line):
        axes, order, *_, joined = of_mesh.groups()
        sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", axes)}
        ids = _tiled(order) if order else np.arange(math.prod(sizes.values()))
        along = [list(sizes).index(name.strip(" '")) for name in joined.split(",")]
        ids = np.moveaxis(
            ids.reshape(list(sizes.values())), along, range(-len(along), 0)
        )
        return ids.reshape(-1, math.prod(ids.shape[-len(along) :])).tolist()
    tiled = _TILED.search(line)
    assert tiled is not None, f"no groups of devices: {line}"
    return _tiled(tiled[1]).tolist()


def _tiled(text: str) -> np.ndarray:
    """`[2,4]<=[4,2]T(1,0)`: device numbers in another order, and a shape of them."""
    found = re.fullmatch(_IOTA, text)
    shape, sizes, order = (_numbers(part or "") for part in found.groups())
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    ids = ids.transpose(order) if order else ids
    return ids.reshape(shape) if shape else ids


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _callees(one: _Instruction) -> list[str]:
    names = []
    for several, single in _CALLEES.findall(one.line):
        names += [n.strip().lstrip("%") for n in several.split(",") if n]
        names += [single] if single else []
    return names


def _size(shape: str) -> int:
    """Bytes of a shape, which may be a tuple of arrays."""
    return sum(
        math.prod(int(n) for n in sizes.split(",") if n) * _bits(dtype) // 8
        for dtype, sizes in _ARRAY.findall(shape)
    )


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 0


def _operands(one: _Instruction) -> list[str]:
    inside = one.line.split(f" {one.opcode}(", 1)[1].split(")", 1)[0]
    return _OPERANDS.findall(inside)


def _moved(one: _Instruction, sizes: dict[str, int]) -> int:
    """Bytes of the larger side: the gathered result or the reduced operand."""
    inward = sum(sizes.get(name, 0) for name in _operands(one))
    outward = _size(one.shape)
    if one.opcode.endswith("-start") and not one.opcode.startswith("all-red"):
        outward -= inward  # a start also returns its operands
    return max(inward, outward)


def _plain(shape: str) -> str:
    arrays = [f"{dtype}[{sizes}]" for dtype, sizes in _ARRAY.findall(shape)]
    first = " ".join(arrays[:2])
    return first + (f" and {len(arrays) - 2} more" if len(arrays) > 2 else "")


def _operator(one: _Instruction) -> str:
    found = _OPERATOR.search(one.line)
    return found[1] if found else ""


def _summed(calls: list[Collective]) -> list[Collective]:
    """Merges equal calls; keeps the operator of the first."""
    together: dict[tuple[str, str], Collective] = {}
    for call in calls:
        key = call.kind, call.shapes
        if key in together:
            count = together[key].count + call.count
            call = dataclasses.replace(together[key], count=count)
        together[key] = call
    return sorted(together.values(), key=lambda c: -c.size * c.count)
