"""Scheduled retraining.   python jobs/retrain.py --as-of 2026-11-20 --config conf/quickstart.yaml"""

from esans.cli import run_command

if __name__ == "__main__":
    run_command("retrain")
