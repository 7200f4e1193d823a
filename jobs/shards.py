"""Shards.   spark-submit jobs/shards.py --config conf/quickstart.yaml"""

from esans.cli import run_stage
from esans.shards.stage import Shards

if __name__ == "__main__":
    run_stage(Shards)
