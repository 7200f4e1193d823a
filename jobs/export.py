"""Export.   spark-submit jobs/export.py --config conf/quickstart.yaml"""

from esans.cli import run_stage
from esans.export.stage import Export

if __name__ == "__main__":
    run_stage(Export)
