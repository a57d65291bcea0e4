"""Truths, and what predicts them without training, side by side."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxsim.corpus import Corpus
from jaxsim.mixture.evaluation import EvaluationSet
from jaxsim.mixture.scores import Scores

PROXIES = ("merge", "probability", "members")


@dataclasses.dataclass(frozen=True)
class Measured:
    """Truths, and what predicts them without training, in bits per byte.

    Attributes:
      names: of the truths.
      w_MC: their ratios.
      select, report: [M, D] by 'truth' and proxy, on the text of that half;
        a truth has NaN in a domain that it was not measured on.
    """

    names: tuple[str, ...]
    w_MC: np.ndarray
    select: Mapping[str, np.ndarray]
    report: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: np.ndarray) -> "Measured":
        """The truths at these indices, or where a mask says so."""
        rows = np.arange(len(self))[rows]
        return Measured(
            tuple(self.names[m] for m in rows),
            self.w_MC[rows],
            {name: bits_MD[rows] for name, bits_MD in self.select.items()},
            {name: bits_MD[rows] for name, bits_MD in self.report.items()},
        )


def joined(first: Measured, more: Measured) -> Measured:
    """Truths of both, on select text."""
    return Measured(
        first.names + more.names,
        np.concatenate([first.w_MC, more.w_MC]),
        {
            name: np.concatenate([bits_MD, more.select[name]])
            for name, bits_MD in first.select.items()
        },
        {},
    )


def measured(proxies: Scores, truths: Scores) -> Measured:
    """Truths beside the proxies of their ratios, on the text of the truths."""
    proxies = proxies.on(truths.proxies["truth"].rows)
    halves = {
        half: {p: proxies.bits_per_byte(p, half) for p in PROXIES}
        | {"truth": truths.bits_per_byte("truth", half)}
        for half in ("select", "report")
    }
    return Measured(proxies.table.names, proxies.table.w_MC, **halves)


def measured_by_user(proxies: Scores, truth_MD: np.ndarray) -> Measured:
    """Truths of a user: what text they were measured on is not known.

    Beside proxies of either half, because what is learned from them for
    searches must not have seen report text.
    """
    halves = {
        half: {p: proxies.bits_per_byte(p, half) for p in PROXIES}
        | {"truth": truth_MD}
        for half in ("select", "report")
    }
    return Measured(proxies.table.names, proxies.table.w_MC, **halves)


@dataclasses.dataclass(frozen=True)
class Basis:
    """What a comparison needs to know of the basis.

    Attributes:
      evaluation: the domains.
      members: names of the C columns.
      own_DC: bool, the units of each in-pool domain's own partition.
      select_CD, report_CD: bits per byte of the members.
      seed: [D] of the seed, by half.
      digests: of 'seed' and of every member, by name.
      notes: what an override admitted.
      singles_known: whether truths are as long as members: then a single
        member is its own truth.
    """

    evaluation: EvaluationSet
    members: tuple[str, ...]
    own_DC: np.ndarray
    select_CD: np.ndarray
    report_CD: np.ndarray
    seed: Mapping[str, np.ndarray]
    digests: Mapping[str, str]
    notes: tuple[str, ...]
    singles_known: bool


def basis_of(
    corpus: Corpus,
    references: Scores,
    singles_known: bool,
    rows: np.ndarray | None = None,
) -> Basis:
    """From the scored references, which have a row for each member.

    Args:
      corpus: names the units that belong to each domain.
      references: on every window.
      singles_known: see `Basis`.
      rows: the windows that truths were scored on; None: all.
    """
    if rows is not None:
        references = references.on(rows)
    table, evaluation = references.table, references.evaluation
    # Under an override a damaged member has no row, and no figure.
    at = {name: m for m, name in enumerate(table.names)}
    bits, seed = {}, {}
    for half in ("select", "report"):
        bits_MD = references.bits_per_byte("merge", half)
        missing_D = np.full(bits_MD.shape[1], np.nan)
        seed[half] = bits_MD[at["seed"]]
        bits[half] = np.array(
            [bits_MD[at[n]] if n in at else missing_D
             for n in table.members]
        )  # fmt: skip
    partition_C = [
        corpus.units[name].partition if name in corpus.units else ""
        for name in table.members
    ]
    own_DC = np.array(
        [[p == domain and inside for p in partition_C]
         for domain, inside in zip(evaluation.domains, evaluation.in_pool,
                                   strict=True)]
    )  # fmt: skip
    return Basis(
        evaluation,
        table.members,
        own_DC,
        bits["select"],
        bits["report"],
        seed,
        dict(references.digests),
        references.notes,
        singles_known,
    )
