"""The files of config/deploy: what systemd, Docker and Kubernetes would refuse is refused here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from engine.cli.supervise import read_directory
from engine.cli.wiring import load_settings
from engine.errors import ConfigError, ListenError
from engine.ops.supervisor.processes import STOP_SECONDS
from engine.sandbox.systemd import systemd_analyze
from engine.settings.api import parse_listen
from engine.settings.supervisor import FILE, LISTEN, load_supervisor

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "config" / "deploy"
UNIT = (DEPLOY / "tailrace.service").read_text(encoding="utf-8")
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes.yml").read_text(encoding="utf-8")))
#: The oldest release of Kubernetes that is supported, and the newest that the schemas have.
RELEASES = ("1.33", kubernetes_validate.latest_version().rpartition(".")[0])
PORT = parse_listen(LISTEN)[1]


# -- systemd ---------------------------------------------------------------------------------------


def analyze(folder: Path, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze on a unit, with programs that exist here."""
    command, units = systemd_analyze()
    unit = folder / "tailrace.service"
    unit.write_text(re.sub(r"(?m)^(Exec\w+)=\S+", rf"\1={sys.executable}", text))
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:{units}"}
    return subprocess.run(
        [*command, *words, str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    found = analyze(tmp_path, UNIT, "verify", "--man=no")
    assert (found.returncode, found.stderr) == (0, "")
    wrong = UNIT.replace("WatchdogSec", "WatchdogSecs")
    assert "WatchdogSecs" in analyze(tmp_path, wrong, "verify", "--man=no").stderr


def test_the_unit_is_confined(tmp_path: Path) -> None:
    """The exposure by `systemd-analyze security` is at most 2.0 of 10."""
    found = analyze(tmp_path, UNIT, "security", "--offline=yes", "--threshold=20", "--no-pager")
    assert found.returncode == 0, found.stdout


def test_the_unit_leaves_the_engines_their_time() -> None:
    values = dict(re.findall(r"(?m)^(\w+)=(.*)$", UNIT))
    assert values["Type"] == "notify"
    assert values["KillMode"] == "mixed"  # SIGTERM is for the supervisor alone
    assert float(values["TimeoutStopSec"]) >= 2 * STOP_SECONDS
    # An address that is not there yet is no reason to stay down.
    prevented = {int(it) for it in values["RestartPreventExitStatus"].split()}
    assert ConfigError.exit_status in prevented
    assert ListenError.exit_status not in prevented


# -- the image -------------------------------------------------------------------------------------


def test_the_image_has_what_the_wheel_is_built_of() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [line[1:] for line in ignored if line.startswith("!")]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert {"pyproject.toml", "setup.py", "engine", "sources", "sinks", "benchmarks"} <= {*copied}


def test_the_image_runs_without_rights() -> None:
    user = re.findall(r"(?m)^USER (.*)$", DOCKERFILE)
    assert user == [re.findall(r"--uid (\d+)", DOCKERFILE)[0]]
    assert f"127.0.0.1:{PORT}/health/live" in DOCKERFILE
    assert f"EXPOSE {PORT}" in DOCKERFILE
    # Process 1 has to reap the orphans of command hooks.
    assert 'ENTRYPOINT ["tini", "--", "tailrace"]' in DOCKERFILE
    assert re.search(r"apt-get install .*\btini\b", DOCKERFILE)
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    service = compose["services"]["tailrace"]
    assert (service["read_only"], service["tmpfs"], service["cap_drop"]) == (
        *(True, ["/tmp"]),
        ["ALL"],
    )
    assert (ROOT / service["build"]["dockerfile"]) == DEPLOY / "Dockerfile"


# -- Kubernetes ------------------------------------------------------------------------------------


def manifest(kind: str) -> dict[str, Any]:
    """The manifest of a kind."""
    found: dict[str, Any] = next(it for it in MANIFESTS if it["kind"] == kind)
    return found


@pytest.mark.parametrize("release", RELEASES)
def test_kubernetes_accepts_the_manifests(release: str) -> None:
    for each in MANIFESTS:
        kubernetes_validate.validate(each, release, strict=True)
    wrong = {**manifest("Service"), "spec": {"portz": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, release, strict=True)


def test_the_manifests_fit_each_other() -> None:
    pod = manifest("Deployment")["spec"]["template"]
    container = pod["spec"]["containers"][0]
    labels = pod["metadata"]["labels"]
    assert manifest("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("Service")["spec"]["selector"] == labels
    ports = {it["name"]: it["containerPort"] for it in container["ports"]}
    assert ports == {"http": PORT}
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    mounted = {it["name"] for it in container["volumeMounts"]}
    assert mounted == {it["name"] for it in pod["spec"]["volumes"]}
    assert str(pod["spec"]["securityContext"]["runAsUser"]) in DOCKERFILE
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["spec"]["terminationGracePeriodSeconds"] >= 2 * STOP_SECONDS


def test_the_config_map_is_a_directory_of_pipelines(tmp_path: Path) -> None:
    for name, text in manifest("ConfigMap")["data"].items():
        for secret in re.findall(r"\$\{file:([^}]*)\}", text):
            path = tmp_path / secret.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.name * 2)
        (tmp_path / name).write_text(text.replace("${file:/", f"${{file:{tmp_path}/"))
    settings = load_supervisor(tmp_path)
    settings.api.secure(parse_listen(settings.listen)[0])
    assert settings.api.read_token
    found = read_directory(tmp_path)
    assert [(it.name, it.problem) for it in found] == [("shop", None)]
    assert load_settings(tmp_path / "shop.toml").sink_scheme == "postgresql"
    assert (tmp_path / FILE).exists()
