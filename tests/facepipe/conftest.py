"""The S3 server that the tests of stores and sources share."""

from __future__ import annotations

from tests.object_server import bucket, s3, s3_server

__all__ = ["bucket", "s3", "s3_server"]
