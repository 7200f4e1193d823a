"""Cluster.   spark-submit jobs/cluster.py --config conf/quickstart.yaml"""

from esans.cluster.stage import Cluster

from esans.cli import run_stage

if __name__ == "__main__":
    run_stage(Cluster)
