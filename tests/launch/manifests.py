"""Is a manifest what the APIs of Kubernetes and JobSet admit?"""

import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

# What the template says it needs, the first with a stable podFailurePolicy,
# and a recent one.
KUBERNETES = ("1.29", "1.31", "1.36")
_SCHEMA = json.loads((Path(__file__).parent / "jobset.schema.json").read_text())


def check_jobset(manifest: dict[str, Any]) -> None:
    """By JobSet's fields, and by the strict schema of what they hold.

    Raises:
      jsonschema.ValidationError: names the field; a key that the API does not
        have is one of its reasons.
    """
    jsonschema.validate(manifest, _SCHEMA)
    for replicated in manifest["spec"]["replicatedJobs"]:
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": manifest["metadata"],
            **replicated["template"],
        }
        for version in KUBERNETES:
            kubernetes_validate.validate(job, version, strict=True)
