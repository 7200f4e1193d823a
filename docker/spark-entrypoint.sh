#!/bin/sh
# One image, several roles: master, worker, submit, tracking (an MLflow server with users); driver and executor are how Spark starts its
# pods on Kubernetes.
set -eu

role=${1:-master}
[ $# -gt 0 ] && shift
state=${TMPDIR:-/tmp}/esans-role
master_page=${SPARK_MASTER_WEBUI_PORT:-8080}
worker_page=${SPARK_WORKER_WEBUI_PORT:-8081}

page() { # whether a page answers
    python -c "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=4)" "$1"
}

case $role in
    master)
        echo "$role" >"$state"
        exec "$SPARK_HOME/bin/spark-class" org.apache.spark.deploy.master.Master \
            --port "${SPARK_MASTER_PORT:-7077}" --webui-port "$master_page" "$@"
        ;;
    worker) # worker spark://master:7077 [--cores N --memory 8g]
        echo "$role" >"$state"
        exec "$SPARK_HOME/bin/spark-class" org.apache.spark.deploy.worker.Worker --webui-port "$worker_page" "$@"
        ;;
    submit) # submit --master ... /opt/esans/jobs/prepare.py --config ...
        echo "$role" >"$state"
        exec "$SPARK_HOME/bin/spark-submit" "$@"
        ;;
    tracking) # tracking --host 0.0.0.0 --port 5000: database, artifacts and the administrator's password come from MLFLOW_* variables
        echo "$role" >"$state"
        umask 077
        auth=${TMPDIR:-/tmp}/esans-auth.ini
        # Users lie in the same database. MLflow reads this file with interpolation, so a percent sign is written twice.
        {
            echo "[mlflow]"
            echo "default_permission = ${MLFLOW_DEFAULT_PERMISSION:-READ}"
            echo "database_uri = $(printf %s "$MLFLOW_BACKEND_STORE_URI" | sed 's/%/%%/g')"
            echo "authorization_function = mlflow.server.auth:authenticate_request_basic_auth"
            echo "grant_default_workspace_access = false"
        } >"$auth"
        MLFLOW_AUTH_CONFIG_PATH=$auth exec mlflow server --app-name basic-auth "$@"
        ;;
    driver)
        echo "$role" >"$state"
        exec "$SPARK_HOME/bin/spark-submit" --deploy-mode client \
            --conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" \
            --conf "spark.executorEnv.SPARK_DRIVER_POD_IP=$SPARK_DRIVER_BIND_ADDRESS" "$@"
        ;;
    executor)
        echo "$role" >"$state"
        # Spark passes its Java options as SPARK_JAVA_OPT_0, SPARK_JAVA_OPT_1, ...
        set --
        while IFS= read -r option; do
            [ -n "$option" ] && set -- "$@" "$option"
        done <<OPTIONS
$(env | grep '^SPARK_JAVA_OPT_' | sort -t_ -k4 -n | sed 's/^[^=]*=//')
OPTIONS
        exec java "$@" "-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" -cp "$SPARK_HOME/jars/*" \
            org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
            --driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" --cores "$SPARK_EXECUTOR_CORES" \
            --app-id "$SPARK_APPLICATION_ID" --hostname "$SPARK_EXECUTOR_POD_IP" \
            --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" --podName "$SPARK_EXECUTOR_POD_NAME"
        ;;
    health)
        case $(cat "$state" 2>/dev/null || echo none) in
            master) page "http://127.0.0.1:$master_page/json/" ;;
            worker) page "http://127.0.0.1:$worker_page/json/" ;;
            *) exit 0 ;; # a job is no service: its exit code tells
        esac
        ;;
    page) # page http://127.0.0.1:5000/health: whether it answers
        page "$1"
        ;;
    *)
        exec "$role" "$@"
        ;;
esac
