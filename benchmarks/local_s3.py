"""An S3 server on loopback (moto's, as a process of its own) and the environment that names it: for the tests and for s3_chain.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import free_port, service, wait_for

# A server without users takes any key; a request must carry one all the same.
_KEYS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local-secret", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class LocalS3:
    """A running server with one empty bucket."""

    url: str
    bucket: str
    env: Mapping[str, str]
    """What a process needs in its environment, over its own, to use the server: endpoint and keys, and no other AWS setting."""
    log: Path
    """One line a request."""


@contextmanager
def local_s3(folder: Path, bucket: str = "esans") -> Iterator[LocalS3]:
    """Start the server, make the bucket, and stop the server at the end; its log lies in `folder`."""
    import boto3

    port, log = free_port(), folder / "s3.log"
    folder.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with service(command, log, clean) as process:
        wait_for(f"{url}/moto-api/", "", process, log)
        client = boto3.client(
            "s3",
            endpoint_url=url,
            region_name=_KEYS["AWS_DEFAULT_REGION"],
            aws_access_key_id=_KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=_KEYS["AWS_SECRET_ACCESS_KEY"],
        )
        client.create_bucket(Bucket=bucket)
        # Nobody's profile or role may be asked for here.
        none = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_EC2_METADATA_DISABLED": "true"}
        yield LocalS3(url, bucket, {**_KEYS, **none, "AWS_ENDPOINT_URL": url}, log)
