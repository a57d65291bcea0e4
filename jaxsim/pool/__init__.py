"""Parameters to members: manifests, publishing, verification.

An entry is a directory with a manifest that names one attempt; the manifest is
the only admission rule. The base model has its own entry, `WORKDIR/base`.
"""

from jaxsim.pool.manifest import Manifest
from jaxsim.pool.pool import Pool, create_pool, open_pool

__all__ = ["Manifest", "Pool", "create_pool", "open_pool"]
