"""The nightly retraining as an Airflow DAG: copy it into the DAG folder. It needs nothing but Airflow there; ESANS has its own environment.

Airflow's own catch-up starts one run for each missed night, in order and one at a time, each with its day as `--as-of`.
"""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.exceptions import AirflowException, AirflowFailException

try:  # Airflow 3
    from airflow.providers.standard.operators.python import PythonOperator
    from airflow.sdk import DAG
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.operators.python import PythonOperator

HOME = "/opt/esans"
COMMAND = [f"{HOME}/.venv/bin/esans", "retrain", "--config", "conf/mine.yaml"]
# Codes that another try cannot change: configuration, data refused, gate refused.
FINAL = {2: "configuration", 3: "data refused", 4: "gate refused"}


def retrain(data_interval_end: datetime, **_: Any) -> None:
    """Retrain as of the day before the night of the run."""
    day = (data_interval_end - timedelta(days=1)).strftime("%Y-%m-%d")
    code = subprocess.run([*COMMAND, "--as-of", day], cwd=HOME, check=False).returncode
    if code in FINAL:
        raise AirflowFailException(f"as of {day}: {FINAL[code]} (exit code {code}); the report in the work directory says why")
    if code:
        raise AirflowException(f"as of {day}: exit code {code}")


with DAG(
    dag_id="esans_retrain",
    schedule="15 2 * * *",
    start_date=datetime(2026, 11, 1, tzinfo=UTC),
    catchup=True,
    max_active_runs=1,
    tags=["esans"],
) as dag:
    PythonOperator(
        task_id="retrain",
        python_callable=retrain,
        retries=2,
        retry_delay=timedelta(minutes=10),
        execution_timeout=timedelta(hours=6),
    )
