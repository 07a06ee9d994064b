"""What several tests of benchmarks measure."""

import functools
from collections.abc import Iterator

import pytest
from botocore.loaders import create_loader

from tests.support.s3_server import S3Server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def descriptions_read_once() -> Iterator[None]:
    """botocore's descriptions of services: most of what a client costs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", functools.cache(create_loader))
        yield
