"""An object store on this machine: S3's own protocol, and a real client."""

import uuid

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from jaxsim.pool.bucket import Objects


@pytest.fixture(scope="package")
def s3():
    """Settings under which s3:// is a server here."""
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
    """Of a pool in a bucket of its own."""
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}/some/pool"


@pytest.fixture
def objects(url) -> Objects:
    return Objects(url)
