"""One pool of many machines that share an object store and no file system.

Corpus, seed and pool lie in the bucket as in a workdir. Each machine has a
workdir of its own, which is a copy of it: what the bucket lacks is sent, what
the workdir lacks is fetched, and a manifest is created once for all of them.
"""

from jaxsim.pool.bucket.bucket import Bucket, open_bucket

__all__ = ["Bucket", "open_bucket"]
