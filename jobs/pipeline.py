"""Every stage in order, skipping what is up to date.   python jobs/pipeline.py --config conf/quickstart.yaml"""

from esans.cli import run_command

if __name__ == "__main__":
    run_command("pipeline")
