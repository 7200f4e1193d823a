"""Make buckets that are not there yet: python buckets.py NAME ... (endpoint and keys from the environment)."""

import sys

import boto3
from botocore.exceptions import ClientError

client = boto3.client("s3")
for name in sys.argv[1:]:
    try:
        client.head_bucket(Bucket=name)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        client.create_bucket(Bucket=name)
    print(f"bucket {name}")
