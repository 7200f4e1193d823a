"""Prepare.   spark-submit jobs/prepare.py --config conf/quickstart.yaml"""

from esans.prepare.stage import Prepare

from esans.cli import run_stage

if __name__ == "__main__":
    run_stage(Prepare)
