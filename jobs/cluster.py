"""Cluster.   spark-submit jobs/cluster.py --config conf/quickstart.yaml"""

from esans.cli import run_stage
from esans.cluster.stage import Cluster

if __name__ == "__main__":
    run_stage(Cluster)
