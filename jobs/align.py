"""Align.   spark-submit jobs/align.py --config conf/quickstart.yaml"""

from esans.cli import run_stage
from esans.align.stage import Align

if __name__ == "__main__":
    run_stage(Align)
