"""Train.   spark-submit jobs/train.py --config conf/quickstart.yaml"""

from esans.train.stage import Train

from esans.cli import run_stage

if __name__ == "__main__":
    run_stage(Train)
