"""Evaluate.   spark-submit jobs/evaluate.py --config conf/quickstart.yaml"""

from esans.cli import run_stage
from esans.evaluate.stage import Evaluate

if __name__ == "__main__":
    run_stage(Evaluate)
