"""Features.   spark-submit jobs/features.py --config conf/quickstart.yaml"""

from esans.features.stage import Features

from esans.cli import run_stage

if __name__ == "__main__":
    run_stage(Features)
