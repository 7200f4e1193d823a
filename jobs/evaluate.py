"""Evaluate.   spark-submit jobs/evaluate.py --config conf/quickstart.yaml"""

from esans.evaluate.stage import Evaluate

from esans.cli import run_stage

if __name__ == "__main__":
    run_stage(Evaluate)
