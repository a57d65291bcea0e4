"""A local object store that speaks the protocol of S3, and a real client."""

import uuid

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from jaxsim.pool.bucket import Objects


@pytest.fixture(scope="package")
def s3():
    """Environment variables that point s3:// to a local server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for key, value in settings.items():
            patch.setenv(key, value)
        yield settings
    server.stop()


@pytest.fixture
def url(s3) -> str:
    """The URL of a pool in a new bucket."""
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}/some/pool"


@pytest.fixture
def objects(url) -> Objects:
    return Objects(url)
