"""Shards.   spark-submit jobs/shards.py --config conf/quickstart.yaml"""

from esans.shards.stage import Shards

from esans.cli import run_stage

if __name__ == "__main__":
    run_stage(Shards)
