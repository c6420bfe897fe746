"""deploy/kubernetes, deploy/serve.yaml and the board, as far as they can be judged without a cluster.

The API's own kinds are validated by kubernetes-validate, which has its schemas; RayService and ScaledObject by the
claims below, since their schemas are not installed with anything.
"""

import ast
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from audiocraft_ext.request import DEFAULT_MAX_DURATION_S
from predict import MAX_CONCURRENCY
from tests.support import cluster
from tests.support.imports import imports_of

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FILES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
VALIDATE = cluster.PYTHON.with_name("kubernetes-validate")
CUSTOM = ("RayService", "ScaledObject")
SOURCES = "".join(path.read_text() for path in DEPLOY.glob("*.py"))


def objects(kind: str) -> dict[str, dict[str, Any]]:
    """All objects of a kind, by name."""
    found = [each for path in FILES for each in yaml.safe_load_all(path.read_text())]
    return {each["metadata"]["name"]: each for each in found if each["kind"] == kind}


SERVE = yaml.safe_load((DEPLOY / "serve.yaml").read_text())
[APPLICATION] = SERVE["applications"]
DEPLOYMENT = objects("Deployment")["musicgen"]["spec"]
SERVER, METRICS = DEPLOYMENT["template"]["spec"]["containers"]
RAY = objects("RayService")["musicgen-ray"]["spec"]
GROUPS = [RAY["rayClusterConfig"]["headGroupSpec"], *RAY["rayClusterConfig"]["workerGroupSpecs"]]
POD_LABELS = [pod["metadata"]["labels"] for pod in (DEPLOYMENT["template"], *(group["template"] for group in GROUPS))]


def validate(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([VALIDATE, "--strict", str(path)], capture_output=True, text=True)


@pytest.mark.skipif(not VALIDATE.exists(), reason="needs kubernetes-validate: make .venv-cluster/ready")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_manifest_is_valid_by_the_api_s_schema(path: Path, tmp_path: Path) -> None:
    done = validate(path)
    if any(f"kind: {kind}\n" in path.read_text() for kind in CUSTOM):
        assert "Couldn't find schema" in done.stdout + done.stderr
        return
    assert done.returncode == 0, done.stdout + done.stderr
    misspelt = tmp_path / "misspelt.yaml"
    misspelt.write_text(re.sub(r"^spec:", "spec:\n  mispelt: 1", path.read_text(), flags=re.MULTILINE))
    assert validate(misspelt).returncode != 0


def test_the_rayservice_runs_serve_yaml() -> None:
    assert yaml.safe_load(RAY["serveConfigV2"]) == SERVE


def test_every_argument_of_the_application_exists() -> None:
    """Ray's own schema lets a misspelt one pass."""
    tree = ast.parse((DEPLOY / "serve.py").read_text())
    [options] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Options"]
    names = {
        node.target.id for node in options.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert APPLICATION["args"].keys() == names
    assert APPLICATION["args"]["slots"] <= MAX_CONCURRENCY


def test_one_version_of_ray() -> None:
    pinned = re.findall(r"^ray\[serve\]==(.+)$", (DEPLOY / "requirements.txt").read_text(), re.MULTILINE)
    assert pinned == [RAY["rayClusterConfig"]["rayVersion"]], "without the extra there is no uvloop"
    assert f"ray[serve]=={pinned[0]}\n" in (DEPLOY / "requirements.in").read_text()
    assert "ray" not in {line.partition("==")[0] for line in (ROOT / "requirements.txt").read_text().splitlines()}


def test_a_pod_drains_for_as_long_as_the_longest_prediction() -> None:
    longest_s = APPLICATION["args"]["longest_s"]
    assert longest_s >= DEFAULT_MAX_DURATION_S
    workers = [group["template"]["spec"] for group in GROUPS[1:]]
    assert all(pod["terminationGracePeriodSeconds"] >= longest_s for pod in [*workers, DEPLOYMENT["template"]["spec"]])


def test_every_port_that_is_named_is_a_container_s() -> None:
    ports = {port["containerPort"] for port in SERVER["ports"] + METRICS["ports"]}
    for group in GROUPS:
        [container] = group["template"]["spec"]["containers"]
        ports |= {port["containerPort"] for port in container["ports"]}
        assert int(group["rayStartParams"]["metrics-export-port"]) in ports
    assert SERVER["ports"][0]["containerPort"] == 5000
    assert SERVE["http_options"]["port"] in ports
    [service] = objects("Service")["musicgen"]["spec"]["ports"]
    assert (service["port"], service["targetPort"]) == (5000, SERVER["ports"][0]["name"])
    assert METRICS["command"][-1] == DEPLOYMENT["template"]["metadata"]["annotations"]["prometheus.io/port"]
    for rule in objects("NetworkPolicy")["musicgen"]["spec"]["ingress"]:
        assert {port["port"] for port in rule["ports"]} <= ports


def test_callers_reach_predictions_alone() -> None:
    [rule] = objects("Ingress")["musicgen"]["spec"]["rules"]
    assert [(path["path"], path["pathType"]) for path in rule["http"]["paths"]] == [("/predictions", "Prefix")]
    policy = objects("NetworkPolicy")["musicgen"]["spec"]
    assert all(source.keys() == {"namespaceSelector"} for rule in policy["ingress"] for source in rule["from"])
    blocks = [to["ipBlock"] for rule in policy["egress"] for to in rule["to"] if "ipBlock" in to]
    assert all({"10.0.0.0/8", "169.254.0.0/16"} <= set(block["except"]) for block in blocks)


def test_every_name_that_is_referred_to_exists() -> None:
    selectors = [DEPLOYMENT["selector"]["matchLabels"], objects("Service")["musicgen"]["spec"]["selector"]]
    selectors += [budget["spec"]["selector"]["matchLabels"] for budget in objects("PodDisruptionBudget").values()]
    assert all(selector in POD_LABELS for selector in selectors)
    [choice] = objects("NetworkPolicy")["musicgen"]["spec"]["podSelector"]["matchExpressions"]
    assert {labels["app"] for labels in POD_LABELS} == set(choice["values"])
    assert objects("ScaledObject")["musicgen"]["spec"]["scaleTargetRef"]["name"] in objects("Deployment")
    pods = [DEPLOYMENT["template"]["spec"], GROUPS[1]["template"]["spec"]]
    for pod in pods:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["weights"]["persistentVolumeClaim"]["claimName"] in objects("PersistentVolumeClaim")
        mounts = pod["containers"][0]["volumeMounts"]
        assert {mount["name"] for mount in mounts} <= volumes.keys()
        weights = next(mount for mount in mounts if mount["name"] == "weights")
        assert weights["readOnly"]
        assert {"name": "MUSICGEN_WEIGHTS", "value": weights["mountPath"]} in pod["containers"][0]["env"]


def test_a_replica_fits_its_pod() -> None:
    [worker] = GROUPS[1]["template"]["spec"]["containers"]
    for limits in (SERVER["resources"]["limits"], worker["resources"]["limits"]):
        assert limits["nvidia.com/gpu"] == 1 == APPLICATION["args"]["gpus"]
    assert GROUPS[1]["maxReplicas"] >= APPLICATION["args"]["max_replicas"]
    assert GROUPS[0]["rayStartParams"]["num-cpus"] == "0"


def test_every_metric_of_the_board_and_of_keda_exists() -> None:
    board = json.loads((DEPLOY / "grafana.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    [trigger] = objects("ScaledObject")["musicgen"]["spec"]["triggers"]
    names = set(re.findall(r"\bmusicgen_\w+|(?<=ray_)musicgen_\w+", " ".join([*queries, trigger["metadata"]["query"]])))
    assert len(names) == 6
    assert all(name in SOURCES for name in names)


def test_deploy_imports_nothing_of_the_server() -> None:
    for path in DEPLOY.glob("*.py"):
        packages = {module.split(".")[0] for module in imports_of(path)}
        assert not packages & {"audiocraft_ext", "predict", "cog", "torch", "tests", "benchmarks"}, path
