"""Align.   spark-submit jobs/align.py --config conf/quickstart.yaml"""

from esans.align.stage import Align
from esans.cli import run_stage

if __name__ == "__main__":
    run_stage(Align)
