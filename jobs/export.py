"""Export.   spark-submit jobs/export.py --config conf/quickstart.yaml"""

from esans.export.stage import Export

from esans.cli import run_stage

if __name__ == "__main__":
    run_stage(Export)
