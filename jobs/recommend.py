"""Recommendations.   spark-submit jobs/recommend.py --config conf/quickstart.yaml --recommend.model=models:/online-retail@champion"""

from esans.cli import run_command

if __name__ == "__main__":
    run_command("recommend")
