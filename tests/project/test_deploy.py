"""Containers, manifests, rules and dashboards, checked by the real tools where they are, and skipped where not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from conftest import ROOT
from odin_slm.serving.settings import ServingSettings
from serving_service import service, wait_for

DEPLOY = ROOT / "deploy"


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes/odin-slm.yml").read_text()))


def test_manifests_follow_the_schemas_of_the_kubernetes_api() -> None:
    import kubernetes_validate

    for manifest in manifests():
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    broken = manifests()[2]
    broken["spec"]["replicas"] = "two"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


def test_manifests_hold_what_operators_expect() -> None:
    by_kind = {manifest["kind"]: manifest for manifest in manifests()}
    assert set(by_kind) == {
        *("ServiceAccount", "ConfigMap", "Deployment", "Service", "HorizontalPodAutoscaler"),
        *("PodDisruptionBudget", "NetworkPolicy"),
    }
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert {"requests", "limits"} <= set(container["resources"])
    assert not [variable for variable in container["env"] if "value" in variable], "secrets by reference"
    settings = {name.removeprefix("ODIN_SLM_").lower(): value for name, value in by_kind["ConfigMap"]["data"].items()}
    chosen = ServingSettings(**settings)
    assert chosen.drain_s + 10 < pod["terminationGracePeriodSeconds"]
    # Kubernetes tells every pod of each Service by variables like <NAME>_PORT=tcp://10.0.0.1:80, over the image's own
    links = by_kind["Service"]["metadata"]["name"].upper().replace("-", "_") + "_PORT"
    assert pod.get("enableServiceLinks") is False or links.removeprefix("ODIN_SLM_").lower() not in chosen.model_fields
    selector = by_kind["Service"]["spec"]["selector"].items()
    assert selector <= by_kind["Deployment"]["spec"]["template"]["metadata"]["labels"].items()


def test_the_ray_job_has_the_fields_of_kuberay_and_pods_of_the_kubernetes_api() -> None:
    """Fields by ray-operator/apis/ray/v1/{rayjob,raycluster}_types.go of ray-project/kuberay (Apache-2.0)."""
    import kubernetes_validate

    job = yaml.safe_load((DEPLOY / "kubernetes/ray-extraction.yml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) <= {
        *("entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"),
        "rayClusterSpec",
    }
    assert job["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode", "InteractiveMode")
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert cluster["authOptions"] == {"mode": "token"}
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "requirements/constraints.txt").read_text()
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert set(head) == {"rayStartParams", "template"}
    assert set(workers) - set(head) == {"groupName", "replicas", "minReplicas", "maxReplicas"}
    for group in (head, workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        template = group["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", **template["metadata"]}}
        pod["spec"] = template["spec"]
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        (container,) = template["spec"]["containers"]
        assert ("envFrom" in container) == (group is head), "only the head needs the storage's key"


def test_the_containers_options_are_settings_and_its_sources_exist() -> None:
    text = (DEPLOY / "Dockerfile").read_text() + (DEPLOY / "compose.yml").read_text()
    variables = set(re.findall(r"ODIN_SLM_([A-Z_]+)", text)) - {"HOME", "API_KEYS"}
    assert {name.lower() for name in variables} <= set(ServingSettings.model_fields)
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert len(re.findall(r"^USER 10001$", dockerfile, re.MULTILINE)) == 3
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split())


def test_no_image_takes_in_credentials_or_data_of_this_machine() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {"conf/local/*", ".env", ".git", "data", "mlflow.db*", "mlartifacts"} <= set(ignored)


def test_the_compose_file_names_what_exists() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text())
    assert set(compose["services"]) == {"api", "mlflow", "prometheus", "grafana"}
    api = compose["services"]["api"]
    assert (DEPLOY / api["build"]["context"] / api["build"]["dockerfile"]).is_file()
    assert f"AS {api['build']['target']}" in (DEPLOY / "Dockerfile").read_text()
    assert api["read_only"] is True
    for name, one in compose["services"].items():
        for volume in one["volumes"]:
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"], name
        assert all(port.startswith("127.0.0.1:") for port in one["ports"])


def compose_client() -> list[str]:
    """The command of a client that follows the Compose Specification; version 1 reads an older format."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
            if done.returncode == 0 and not done.stdout.startswith("1."):
                return command
    pytest.skip("Docker Compose, version 2 or newer, is not installed")


@pytest.mark.parametrize("file", ["deploy/compose.yml", "docker-compose.yml"])
def test_the_compose_client_reads_the_compose_files(file: str, tmp_path: Path) -> None:
    environment = {**os.environ, "GRAFANA_PASSWORD": "x"}

    def read(path: Path) -> subprocess.CompletedProcess[str]:
        command = [*compose_client(), "-f", str(path), "config", "--format", "json"]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    done = read(ROOT / file)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["services"]) == set(yaml.safe_load((ROOT / file).read_text())["services"])
    (tmp_path / "broken.yml").write_text((ROOT / file).read_text().replace("restart:", "restrat:"))
    assert "restrat" in read(tmp_path / "broken.yml").stderr


@pytest.mark.parametrize(
    "words",
    [
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "alerts_test.yml"],
        ["test", "rules", "slow_alerts_test.yml"],
    ],
)
def test_promtool_accepts_the_rules_and_their_tests_pass(words: list[str]) -> None:
    command = [tool("promtool"), *words]
    done = subprocess.run(command, cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_amtool_accepts_the_alertmanager_example() -> None:
    command = [tool("amtool"), "check-config", str(DEPLOY / "prometheus/alertmanager.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"][0]["rules"]
    tested = set()
    for name in ("alerts_test.yml", "slow_alerts_test.yml"):
        for test in yaml.safe_load((DEPLOY / "prometheus" / name).read_text())["tests"]:
            tested |= {one["alertname"] for one in test["alert_rule_test"] if one["exp_alerts"]}
    assert tested == {rule["alert"] for rule in rules if "alert" in rule}


def test_a_prometheus_server_scrapes_the_service(tiny_base: Path, tmp_path: Path) -> None:
    prometheus = tool("prometheus")
    with service(tiny_base) as client:
        client.get("/ready")
        configuration = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
        configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        configuration["scrape_configs"][0]["static_configs"] = [{"targets": [client.base_url.netloc.decode()]}]
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        shutil.copy(DEPLOY / "prometheus/alerts.yml", tmp_path)
        words = [f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen([prometheus, *words, "--web.listen-address=127.0.0.1:0"], stderr=log)
        try:
            pattern = re.compile(r"address=(127\.0\.0\.1:(?!0\b)\d+)|(127\.0\.0\.1:(?!0\b)\d+)")
            wait_for(lambda: pattern.search((tmp_path / "log").read_text()) or process.poll() is not None, 60)
            found = pattern.search((tmp_path / "log").read_text())
            if found is None:
                pytest.skip("this prometheus does not say on which port it listens")

            def value(query: str) -> Any:
                answer = httpx.get(f"http://{found[1] or found[2]}/api/v1/query", params={"query": query}, timeout=10)
                return answer.json()["data"]["result"]

            wait_for(lambda: value("odin_ready"), 60)
            assert value("odin_ready")[0]["value"][1] == "1"
            assert value("up")[0]["metric"]["job"] == "odin-slm"
        finally:
            process.terminate()
            process.wait(30)


def test_dashboards_are_grafanas_json_with_panels_that_ask_something() -> None:
    files = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
    assert [file.stem for file in files] == ["odin-api", "odin-model", "odin-system"]
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    for file in files:
        board = json.loads(file.read_text())
        assert board["uid"] == file.stem
        for panel in board["panels"]:
            assert panel["datasource"]["uid"] == source["uid"]
            assert all(target["expr"] for target in panel["targets"])
