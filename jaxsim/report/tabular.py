"""The report's tables, as Parquet and CSV."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from jaxsim.report import agreement, calibrated, claims, gauged
from jaxsim.report.collect import Facts
from jaxsim.report.cost import alternatives, spent
from jaxsim.report.effort import next_percent
from jaxsim.report.references import SEED, References
from jaxsim.search.found import Found
from jaxsim.study.chosen import Chosen
from jaxsim.study.validate import Validation

Record = dict[str, Any]
TABLES = (
    "members", "domains", "gains", "mixtures", "marginal", "binding", "race",
    "gauge", "agreement", "claims", "calibration_check", "learning",
    "points", "given_agreement", "given_claims", "given_points", "chosen",
    "cost",
)  # fmt: skip
PROPOSED = "proposed.csv"


def tables(facts: Facts) -> dict[str, list[Record]]:
    """Every table that there is something for, by name.

    Under an override every row says so: a table travels without its report.
    """
    found: dict[str, list[Record]] = {name: [] for name in TABLES}
    found["members"] = members(facts)
    found["domains"] = domains(facts)
    found["cost"] = cost(facts)
    if facts.references is not None:
        found["gains"] = gains(facts.references)
    if facts.found is not None:
        found["mixtures"] = mixtures(facts.found)
        found["marginal"] = marginal(facts.found)
        found["binding"] = list(facts.found.binding)
        found["race"] = list(facts.found.race)
    if facts.gauge is not None:
        found["gauge"] = gauged.records(facts.gauge)
    if facts.validation is not None:
        found["agreement"] = agreement.records(facts.validation)
        found["claims"] = claims.records(facts.validation)
        found["calibration_check"] = calibrated.check_records(facts.validation)
        found["learning"] = calibrated.learning_records(facts.validation)
        found["points"] = points(facts.validation)
    if facts.given is not None:
        found["given_agreement"] = agreement.records(facts.given)
        found["given_claims"] = claims.records(facts.given)
        found["given_points"] = points(facts.given)
    if facts.chosen is not None:
        found["chosen"] = chosen(facts.chosen)
    mark = {"override": "; ".join(facts.overrides)} if facts.overrides else {}
    return {
        name: [{**row, **mark} for row in rows]
        for name, rows in found.items()
        if rows
    }


def write_tables(
    folder: Path, records: Mapping[str, Sequence[Record]]
) -> list[Path]:
    """NAME.parquet and NAME.csv for each table; the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, rows in records.items():
        parquet, text = folder / f"{name}.parquet", folder / f"{name}.csv"
        pa.parquet.write_table(pa.Table.from_pylist(list(rows)), parquet)
        _write_csv(text, list(rows[0]), [list(row.values()) for row in rows])
        paths += [parquet, text]
    return paths


def write_proposed(folder: Path, found: Found, columns: Sequence[str]) -> Path:
    """The tied and the plain mixtures, as `--mixtures` and `--truths` read."""
    path = folder / PROPOSED
    rows = [
        [row["name"], *(repr(row["weights"].get(n, 0.0)) for n in columns)]
        for row in found.rows
    ]
    _write_csv(path, ["name", *columns], rows)
    return path


def members(facts: Facts) -> list[Record]:
    """Every member: what it was trained on, what it took, how far it moved."""
    units = facts.corpus.units if facts.corpus else {}
    bumps = facts.gauge.bumps if facts.gauge else {}
    return [
        {
            "member": name,
            "partition": units[name].partition if name in units else None,
            "group": units[name].group if name in units else None,
            "documents": units[name].documents if name in units else None,
            "tokens": m.tokens,
            "unique_tokens": m.unique_tokens,
            "epochs": float(max(m.epochs.values(), default=0.0)),
            "final_loss": float(m.final_loss),
            "drift": _finite(facts.drift.get(name)),
            "bump": _finite(bumps.get(name)),
            "wall_seconds": float(m.wall_seconds),
            "device_seconds": float(m.device_seconds),
            "flops": float(m.flops),
            "params_digest": m.params_digest,
        }
        for name, m in facts.of_kind("member").items()
    ]


def domains(facts: Facts) -> list[Record]:
    """Every domain: documents, tokens, bytes and windows of both halves."""
    if facts.corpus is None:
        return []
    return [
        {
            "domain": domain.name,
            "in_pool": domain.in_pool,
            **{
                f"{half}_{what}": getattr(domain, what)[half]
                for half in ("select", "report")
                for what in ("documents", "tokens", "bytes", "windows")
            },
        }
        for domain in facts.corpus.domains.values()
    ]


def gains(references: References) -> list[Record]:
    """Member by domain, both halves, in bits per byte."""
    rows: list[Record] = []
    for half in references.bits:
        seed_D = references.row(SEED, half)
        gain_CD = references.gains(half)
        for (c, d), gain in np.ndenumerate(gain_CD):
            rows.append(
                {
                    "member": references.members[c],
                    "domain": references.domains[d],
                    "in_pool": references.in_pool[d],
                    "half": half,
                    "seed_bits_per_byte": _finite(float(seed_D[d])),
                    "member_bits_per_byte": _finite(float(seed_D[d] - gain)),
                    "gain": _finite(float(gain)),
                }
            )
    return rows


def mixtures(found: Found) -> list[Record]:
    """The tied and the plain mixtures."""
    return [
        {
            "mixture": row["name"],
            "kind": row["kind"],
            "weights": json.dumps(row["weights"]),
            "select_bits_per_byte": _finite(row["select"]),
            "report_bits_per_byte": _finite(row["report"]),
            "select_probability": _finite(row.get("probability")),
            "select_members": _finite(row.get("members")),
            "shift": _finite(row.get("shift")),
            "difference": _finite(row["difference"]),
            "error": _finite(row["error"]),
            "tied": row["tied"],
        }
        for row in found.rows
    ]


def marginal(found: Found) -> list[Record]:
    """Member by domain: what one percent more of the tokens changes."""
    percent = next_percent(found)
    if percent is None:
        return []
    return [
        {
            "member": percent.members[c],
            "domain": percent.domains[d],
            "bits_per_byte_for_one_percent": _finite(float(bits)),
        }
        for (c, d), bits in np.ndenumerate(percent.bits_CD)
    ]


def points(validation: Validation | Chosen) -> list[Record]:
    """Every truth on every target, beside what was predicted for it."""
    return [
        {
            "truth": name,
            "target": target,
            "kind": kind,
            "truth_bits_per_byte": validation.points["truth"][target][i],
            **{
                predictor: values[target][i]
                for predictor, values in validation.points.items()
                if predictor != "truth"
            },
        }
        for target, kind in zip(
            validation.targets, validation.kinds, strict=True
        )
        for i, name in enumerate(validation.truths)
    ]


def chosen(trained: Chosen) -> list[Record]:
    """The same for ratios that were trained by choice, with their labels."""
    labels = dict(zip(trained.truths, trained.labels, strict=True))
    return [{"ratio": labels[r["truth"]], **r} for r in points(trained)]


def cost(facts: Facts) -> list[Record]:
    """Spent and estimated."""
    return [
        {
            "what": line.what,
            "runs": line.runs,
            "tokens": line.tokens,
            "flops": float(line.flops),
            "seconds": _finite(line.seconds),
            "kind": line.kind,
            "basis": line.basis,
        }
        for line in [*spent(facts), *alternatives(facts)]
    ]


def _write_csv(
    path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _finite(value: float | None) -> float | None:
    if value is None or not np.isfinite(value):
        return None
    return float(value)
