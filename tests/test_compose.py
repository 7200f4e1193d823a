"""docker/compose.yaml: pinned, without secrets, nobody root, every service watched, and every name that it asks for in the example."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.compose import COMPOSE, EXAMPLE, Loopback, load, variables

VALUES = {"POSTGRES_PASSWORD": "p0", "S3_ACCESS_KEY": "k1", "S3_SECRET_KEY": "s2", "MLFLOW_PASSWORD": "m3", "MLFLOW_SESSION_KEY": "c4"}
JOBS = ("buckets", "pipeline")
# Keys that Compose knows, of those that such a file needs; a typo is none of them.
SERVICE_KEYS = {
    *("image", "build", "user", "command", "environment", "volumes", "networks", "ports", "healthcheck", "depends_on", "deploy"),
    *("profiles", "restart", "security_opt", "cap_drop"),
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return load(VALUES)


def test_a_required_value_that_is_missing_stops_it_with_the_name() -> None:
    for name in VALUES:
        with pytest.raises(KeyError, match=name):
            load({other: value for other, value in VALUES.items() if other != name})


def test_the_example_names_every_variable_and_gives_no_secret_a_value() -> None:
    lines = EXAMPLE.read_text().splitlines()
    required = {line.removesuffix("=") for line in lines if re.fullmatch(r"\w+=", line)}
    optional = dict(line.removeprefix("# ").split("=", 1) for line in lines if re.fullmatch(r"# [A-Z_]+=\S+", line))
    found = variables()
    assert required == set(VALUES) == {name for name, (kind, _) in found.items() if kind == "?"}
    assert optional == {name: rest for name, (kind, rest) in found.items() if kind == "-"}
    assert not [line for line in lines if re.fullmatch(r"\w+=.+", line)]


def test_secrets_stand_in_the_file_as_variables_only() -> None:
    for line in COMPOSE.read_text().splitlines():
        name, _, value = line.strip().partition(": ")
        if re.search(r"PASSWORD|SECRET|KEY|TOKEN", name) and not name.startswith("#"):
            assert value.startswith("${"), line


def test_services_have_known_keys_known_networks_volumes_and_neighbours(compose: dict[str, Any]) -> None:
    assert set(compose) - {key for key in compose if key.startswith("x-")} == {"name", "services", "networks", "volumes"}
    for name, service in compose["services"].items():
        assert set(service) <= SERVICE_KEYS, name
        assert set(service["networks"]) <= set(compose["networks"]), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (COMPOSE.parent / source).exists(), volume
        for other, how in (service.get("depends_on") or {}).items():
            wanted = "service_completed_successfully" if other in JOBS else "service_healthy"
            assert how["condition"] == wanted, (name, other)
            assert other in JOBS or "healthcheck" in compose["services"][other], other


@pytest.mark.parametrize("name", list(load(VALUES)["services"]))
def test_a_service_is_pinned_watched_unprivileged_and_open_to_this_host_alone(name: str, compose: dict[str, Any]) -> None:
    service = compose["services"][name]
    # What is built here has a version; what comes from elsewhere a digest too.
    digest = "" if "build" in service else r"@sha256:[0-9a-f]{64}"
    assert re.fullmatch(rf"[\w./-]+:v?\d+\.\d+[\w.-]*{digest}", service["image"])
    assert ("healthcheck" in service) is (name not in JOBS)
    # Images of this project say their user themselves (tests/test_docker.py).
    assert "build" in service or not service["user"].startswith(("0", "root"))
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_object_store_is_looked_at_and_named_at_the_port_and_the_page_that_its_command_gives_it(compose: dict[str, Any]) -> None:
    store = compose["services"]["s3"]
    port, page = (store["command"][store["command"].index(option) + 1] for option in ("--port", "--health"))
    assert store["healthcheck"]["test"][-1] == f"http://127.0.0.1{port}{page}"
    for name in ("buckets", "mlflow", "spark-worker", "pipeline"):
        assert compose["services"][name]["environment"]["AWS_ENDPOINT_URL"] == f"http://s3{port}"
    # Objects outlive the container: the folder that it serves is the volume's.
    assert store["volumes"] == [f"objects:{store['command'][-1]}"]


def test_the_database_is_on_no_network_that_leaves_the_host(compose: dict[str, Any]) -> None:
    assert compose["services"]["postgres"]["networks"] == ["back"]
    assert compose["networks"]["back"] == {"internal": True}
    assert "ports" not in compose["services"]["postgres"]


def test_names_ports_and_folders_of_containers_move_to_loopback(tmp_path: Any) -> None:
    here = Loopback({5000: 15000, 5432: 15432, 7077: 17077}, tmp_path)
    assert here.move("postgresql+psycopg2://mlflow:p0@postgres:5432/mlflow") == "postgresql+psycopg2://mlflow:p0@127.0.0.1:15432/mlflow"
    assert here.move("spark://spark-master:7077") == "spark://127.0.0.1:17077"
    assert here.move("5000") == "15000"
    assert here.move("s3://mlflow") == "s3://mlflow"
