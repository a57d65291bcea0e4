"""Did a change move a number? Digests and losses of a finished workdir.

    python benchmarks/baseline.py runs/quickstart before.npz
    python benchmarks/baseline.py --compare before.npz after.npz

The first form writes the parameter digests of the base model and of every entry of the
pool, and the nats of every evaluation window of the base model, the members, the
plain merges, the reference runs and the replicates, each under its document and place
in it. The second form says what differs, and ends with 1 if anything does.

Run both versions on the same machine, each from its own checkout (`git
worktree add`), on workdirs that each of them made: bits that another machine
recorded prove nothing.
"""

import argparse
import collections
import json
from pathlib import Path

import numpy as np

from jaxsim.pool import open_pool
from jaxsim.pool.manifest import read_manifest
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import Scores


def record(workdir: Path) -> dict[str, np.ndarray]:
    """Digests by entry, and nats by mixture, domain, split and document."""
    pool, scorer = open_pool(workdir), Scorer(workdir)
    manifests = pool.manifests()
    digests = {"base": read_manifest(pool.base_entry).params_digest}
    digests |= {name: m.params_digest for name, m in manifests.items()}
    found = {
        f"digest/{_neutral(name)}": np.array(digest) for name, digest in digests.items()
    }
    found |= _nats("merge", scorer.standard(), "merge")
    others = [n for n, m in manifests.items() if m.kind != "member"]
    if others:
        trained = scorer.score_entries("baseline", others)
        found |= _nats("trained", trained, "reference")
    return found


def _nats(kind: str, scores: Scores, predictor: str) -> dict[str, np.ndarray]:
    e, proxied = scores.evaluation, scores.predictors[predictor]
    rows_of = collections.defaultdict(list)
    for i, row in enumerate(proxied.rows):
        split = int(e.split_R[row])
        domain = e.domains[e.domain_R[row]]
        rows_of[domain, split, e.documents[e.document_R[row]]].append(i)
    return {
        f"{kind}/{_neutral(name)}/{domain}/{split}/{document}": nll_R[rows]
        for name, nll_R in zip(scores.table.names, proxied.nll_MR, strict=True)
        for (domain, split, document), rows in rows_of.items()
    }


def _neutral(name: str) -> str:
    """The same name in versions that call a replicate or the base model otherwise."""
    name = "base" if name == "seed" else name
    return name.replace(".order", ".replicate").replace("truth-", "reference-")


def compare(before: Path, after: Path) -> int:
    """Prints what differs; the number of keys that do."""
    with np.load(before) as a, np.load(after) as b:
        missing = sorted(set(a.files) ^ set(b.files))
        changed = [
            key
            for key in sorted(set(a.files) & set(b.files))
            if not np.array_equal(a[key], b[key])
        ]
        same = len(set(a.files) & set(b.files)) - len(changed)
    said = {"same": same, "changed": changed[:20], "in one only": missing[:20]}
    print(json.dumps(said, indent=1))
    return len(changed) + len(missing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--compare", action="store_true")
    args = parser.parse_args()
    if args.compare:
        raise SystemExit(compare(args.first, args.second) > 0)
    np.savez(args.second, **record(args.first))


if __name__ == "__main__":
    main()
