"""Features.   spark-submit jobs/features.py --config conf/quickstart.yaml"""

from esans.cli import run_stage
from esans.features.stage import Features

if __name__ == "__main__":
    run_stage(Features)
