"""Prepare.   spark-submit jobs/prepare.py --config conf/quickstart.yaml"""

from esans.cli import run_stage
from esans.prepare.stage import Prepare

if __name__ == "__main__":
    run_stage(Prepare)
