"""Popularity, item-kNN, ALS and BPR under the same metrics.   spark-submit jobs/references.py --config conf/quickstart.yaml"""

from esans.cli import run_stage
from esans.references.stage import References

if __name__ == "__main__":
    run_stage(References)
