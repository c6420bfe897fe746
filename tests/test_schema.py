"""openapi.json against the contract, the signatures and, where it is installed, cog's own generator."""

import ast
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from audiocraft_ext.training.request import CHOICES, RANGES, TrainingRequest

ROOT = Path(__file__).parent.parent
SPEC: dict[str, Any] = json.loads((ROOT / "openapi.json").read_text())
SCHEMAS: dict[str, Any] = SPEC["components"]["schemas"]
CONTRACT: dict[str, Any] = json.loads((ROOT / "tests/contract/input_schema.json").read_text())
# Of the schema as it was before there was training, without white space: what clients of predictions read.
PREDICTION_SHA256 = "f6ecebd1fba19f5509a52d96ee0c80557e7d3105d01e1bd8060c1b612f58c095"
OPTIONAL = {"prompt", "input_audio", "continuation_end", "seed"}
TYPES = {"str": "string", "File": "string", "int": "integer", "float": "number", "bool": "boolean"}


def flatten(field: dict[str, Any]) -> dict[str, Any]:
    """One property in the contract's form: an enumeration's allOf/$ref replaced by its target."""
    flat = {key: value for key, value in field.items() if key != "allOf"}
    for part in field.get("allOf", []):
        target = SCHEMAS[part["$ref"].removeprefix("#/components/schemas/")]
        flat |= {key: value for key, value in target.items() if key != "description"}
    return flat


def signature() -> dict[str, tuple[str, bool, dict[str, Any]]]:
    """name → (type, optional, Input's keywords) of Predictor.predict, read as text, as cog does."""
    tree = ast.parse((ROOT / "predict.py").read_text())
    predictor = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Predictor")
    predict = next(node for node in predictor.body if getattr(node, "name", None) == "predict")
    assert isinstance(predict, ast.AsyncFunctionDef)
    fields = {}
    for argument, default in zip(predict.args.args[1:], predict.args.defaults, strict=True):
        assert argument.annotation is not None
        assert isinstance(default, ast.Call)
        annotation = ast.unparse(argument.annotation)
        keywords = {str(word.arg): ast.literal_eval(word.value) for word in default.keywords}
        name = annotation.removeprefix("Optional[").removesuffix("]")
        fields[argument.arg] = (name, annotation.startswith("Optional["), keywords)
    return fields


def training_signature() -> dict[str, dict[str, Any]]:
    """name → Input's keywords of train.py's train, read as text, as cog does."""
    tree = ast.parse((ROOT / "train.py").read_text())
    train = next(node for node in tree.body if isinstance(node, ast.AsyncFunctionDef) and node.name == "train")
    calls = [default for default in train.args.defaults if isinstance(default, ast.Call)]
    return {
        argument.arg: {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        for argument, call in zip(train.args.args, calls, strict=True)
    }


def cog_command() -> str:
    found = ROOT / ".cache/bin/cog"
    path = str(found) if found.exists() else shutil.which("cog")
    if path is None:
        pytest.skip("the cog command is not installed: script/install-cog")
    return path


def test_the_inputs_are_the_contracts_in_its_order() -> None:
    fields = SCHEMAS["Input"]["properties"]
    assert sorted(fields, key=lambda name: fields[name]["x-order"]) == list(CONTRACT["properties"])
    assert SCHEMAS["Input"]["title"] == CONTRACT["title"]
    assert SCHEMAS["Input"]["type"] == CONTRACT["type"]


@pytest.mark.parametrize("name", CONTRACT["properties"])
def test_every_property_is_the_contracts_and_only_optional_ones_nullable(name: str) -> None:
    field = flatten(SCHEMAS["Input"]["properties"][name])
    if name in OPTIONAL:
        assert field.pop("nullable", True) is True
        assert field.pop("default", None) is None
    assert field == CONTRACT["properties"][name]


def test_no_input_is_required() -> None:
    assert SCHEMAS["Input"].get("required", []) == []


def test_the_output_is_the_contracts() -> None:
    assert SCHEMAS["Output"] == json.loads((ROOT / "tests/contract/output_schema.json").read_text())


def test_the_schema_has_the_inputs_of_the_signature_in_its_order() -> None:
    fields = SCHEMAS["Input"]["properties"]
    assert list(signature()) == sorted(fields, key=lambda name: fields[name]["x-order"])


@pytest.mark.parametrize("name", CONTRACT["properties"])
def test_every_property_matches_the_signature(name: str) -> None:
    annotation, optional, keywords = signature()[name]
    field = flatten(SCHEMAS["Input"]["properties"][name])
    assert field["type"] == TYPES[annotation]
    assert field.get("format") == ("uri" if annotation == "File" else None)
    assert field.get("nullable", False) == optional == (name in OPTIONAL)
    assert field["default"] == keywords.pop("default")
    assert field["description"] == keywords.pop("description")
    assert field.get("minimum") == keywords.pop("ge", None)
    assert field.get("enum") == keywords.pop("choices", None)
    assert keywords == {}


def test_training_adds_to_the_schema_and_changes_nothing_in_it() -> None:
    spec = json.loads((ROOT / "openapi.json").read_text())
    spec["paths"] = {path: methods for path, methods in spec["paths"].items() if not path.startswith("/trainings")}
    enumerations = {name for name, keywords in training_signature().items() if "choices" in keywords}
    schemas = spec["components"]["schemas"]
    added = {name for name in schemas if name.startswith("Training")} | enumerations
    spec["components"]["schemas"] = {name: schema for name, schema in schemas.items() if name not in added}
    canonical = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(canonical.encode()).hexdigest() == PREDICTION_SHA256


def test_every_training_input_matches_the_request_and_its_signature() -> None:
    fields = SCHEMAS["TrainingInput"]["properties"]
    own = {field.name: field.default for field in dataclasses.fields(TrainingRequest)}
    assert list(own) == list(training_signature()) == sorted(fields, key=lambda name: fields[name]["x-order"])
    assert SCHEMAS["TrainingInput"]["required"] == ["dataset_path"]
    for name, keywords in training_signature().items():
        field = flatten(fields[name])
        assert field["description"] == keywords["description"]
        low, high = keywords.get("ge"), keywords.get("le")
        assert (field.get("minimum"), field.get("maximum"), field.get("enum")) == (low, high, keywords.get("choices"))
        if name != "dataset_path":
            assert field["default"] == keywords["default"] == own[name]
        if low is not None:
            assert RANGES[name][:2] == (low, high)
        assert CHOICES.get(name) == (tuple(keywords["choices"]) if "choices" in keywords else None)


def test_cogs_generator_writes_this_schema_byte_for_byte(tmp_path: Path) -> None:
    cog_command()
    written = tmp_path / "openapi.json"
    subprocess.run([ROOT / "script/schema", written], check=True)
    assert written.read_bytes() == (ROOT / "openapi.json").read_bytes()


def test_cog_doctor_finds_nothing_but_a_missing_docker_and_another_python() -> None:
    done = subprocess.run(
        [cog_command(), "doctor"], cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True
    )
    report = done.stdout + done.stderr
    without_docker = "Docker is not available" in report and "Found 1 error" in report
    assert done.returncode == 0 or without_docker, report
    assert "warning" not in report or ("local Python is" in report and "1 warning." in report), report
