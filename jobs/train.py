"""Train.   spark-submit jobs/train.py --config conf/quickstart.yaml"""

from esans.cli import run_stage
from esans.train.stage import Train

if __name__ == "__main__":
    run_stage(Train)
