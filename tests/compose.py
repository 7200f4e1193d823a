"""docker/compose.yaml as the tests read it: interpolated from an env file, merged, and moved from containers to loopback."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "docker" / "compose.yaml"
EXAMPLE = ROOT / "docker" / "env.example"

# ${NAME:?message} must have a value, ${NAME:-default} need not.
VARIABLE = re.compile(r"\$\{(\w+)(?::([?-])([^}]*))?\}")


def variables() -> dict[str, tuple[str, str]]:
    """Name -> (kind, rest) of every variable in the file: kind '?' is required, '-' has a default."""
    return {match[1]: (match[2] or "", match[3] or "") for match in VARIABLE.finditer(COMPOSE.read_text())}


def load(values: Mapping[str, str]) -> dict[str, Any]:
    """The file as Compose sees it with these values. Raises KeyError for a required name without one."""

    def value(match: re.Match[str]) -> str:
        if values.get(match[1]):
            return values[match[1]]
        if match[2] == "-":
            return match[3]
        raise KeyError(f"{match[1]}: {match[3]}")

    text = "\n".join(line for line in COMPOSE.read_text().splitlines() if not line.lstrip().startswith("#"))
    loaded: dict[str, Any] = yaml.safe_load(VARIABLE.sub(value, text))
    return loaded


# What a client calls the server, not where it is.
NAMES_OF_CLIENTS = {"MLFLOW_SERVER_ALLOWED_HOSTS"}


@dataclass(frozen=True)
class Loopback:
    """Where the containers' names, ports and folders are when the services are processes of this machine."""

    ports: Mapping[int, int]
    """Port in a container -> port here."""
    work: Path

    def move(self, text: str) -> str:
        """An argument or a variable's value, moved."""
        if text.lstrip(":").isdigit() and int(text.lstrip(":")) in self.ports:
            return text.replace(text.lstrip(":"), str(self.ports[int(text.lstrip(":"))]))
        hosts = r"(?<![\w.-])(?:postgres|s3|mlflow|spark-master|127\.0\.0\.1|localhost):(\d+)"
        text = re.sub(hosts, lambda match: f"127.0.0.1:{self.ports[int(match[1])]}" if int(match[1]) in self.ports else match[0], text)
        if text in ("spark-master", "0.0.0.0"):
            return "127.0.0.1"
        if text == "/opt/entrypoint.sh":
            return str(ROOT / "docker" / "spark-entrypoint.sh")
        # In one pass: the clone itself may lie under /tmp.
        here = {"/opt/esans/": f"{ROOT}/", "/tmp/": f"{self.work}/"}
        return re.sub("/opt/esans/|/tmp/", lambda match: here[match[0]], text)

    def command(self, service: Mapping[str, Any]) -> list[str]:
        """What a container of this service runs; an image of this project starts with its entry point."""
        entry = [str(ROOT / "docker" / "spark-entrypoint.sh")] if "build" in service else []
        return [*entry, *(self.move(word) for word in service["command"])]

    def environment(self, service: Mapping[str, Any]) -> dict[str, str]:
        """The variables of a container of this service."""
        given = {name: str(value) for name, value in (service.get("environment") or {}).items()}
        return {name: value if name in NAMES_OF_CLIENTS else self.move(value) for name, value in given.items()}

    def health(self, service: Mapping[str, Any]) -> list[str]:
        """Its health check."""
        kind, *words = service["healthcheck"]["test"]
        assert kind == "CMD"
        return [self.move(word) for word in words]
