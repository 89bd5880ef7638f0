"""The catalogue that flags, file and environment describe together."""

from pathlib import Path
from typing import Any

import pytest

from edif.core.errors import SetupError
from edif.core.limits import Isolation, Merge, Padding
from edif.launch.models import catalogue_of
from edif.models.catalogue import DEMO_MODEL_ID, DEMO_MODEL_PATH, Deployment
from edif.settings import load
from edif.wire.link import Merging, ModelSpec

DEMO = str(DEMO_MODEL_PATH)


def deployments(**settings: Any) -> list[Deployment]:
    return list(catalogue_of(load(None, threads=2, **settings)))


def test_a_model_without_settings_of_its_own_has_those_of_all() -> None:
    (found,) = deployments(
        models=(f"org/name={DEMO}",),
        dtype="bfloat16",
        adapters={"a": "b"},
        isolation="sealed",
        sealed_at_once=7,
    )
    spec = ModelSpec("org/name", DEMO, dtype="bfloat16", threads=2, adapters={"a": "b"})
    assert found == Deployment(spec, Isolation.SEALED, 7, Merging(16, 4096, 64.0, alone_at_once=7))


def test_a_models_own_settings_count_before_those_of_all() -> None:
    own = {
        "folder": DEMO,
        "revision": "v1",
        "task": "fill-mask",
        "trust_remote_code": True,
        "dtype": "float16",
        "threads": 5,
        "adapters": {},
        "isolation": "shared",
        "sealed_at_once": 1,
        "merge": "off",
    }
    (found,) = deployments(
        deployments={"org/own": own}, dtype="bfloat16", adapters={"a": "b"}, isolation="sealed"
    )
    spec = ModelSpec("org/own", DEMO, "v1", "float16", "fill-mask", 5, {}, trust_remote_code=True)
    assert found == Deployment(spec, Isolation.SHARED, 1)


def test_how_traces_are_merged_is_said_for_all_models_and_whether_for_each() -> None:
    all_models: dict[str, Any] = {
        "sealed_at_once": 3,
        "merge_rows": 5,
        "merge_tokens": 600,
        "merge_tolerance": 7.5,
        "merge_wait_s": 0.25,
        "merge_padding": "on",
        "deployments": {
            "org/own": {"folder": DEMO},
            "org/off": {"folder": DEMO, "merge": "off"},
            "org/always": {
                "folder": DEMO,
                "merge": "always",
                "sealed_at_once": 1,
                "merge_padding": "off",
            },
        },
    }
    own, off, always = deployments(merge="auto", **all_models)
    assert own.merging == Merging(
        rows=5, tokens=600, tolerance=7.5, alone_at_once=3, wait_s=0.25, padding=Padding.ON
    )
    assert off.merging is None
    assert always.merging == Merging(
        rows=5, tokens=600, tolerance=7.5, alone_at_once=1, always=True, wait_s=0.25, padding=Padding.OFF
    )
    assert [each.merge for each in (own, off, always)] == [Merge.AUTO, Merge.OFF, Merge.ALWAYS]
    assert [each.merging is None for each in deployments(merge="off", **all_models)] == [True, True, False]


def test_flags_come_first_and_their_folder_counts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = deployments(
        demo=True,
        models=(f"org/name={tmp_path}",),
        deployments={"org/file": {}, "org/name": {"folder": DEMO}, DEMO_MODEL_ID: {"isolation": "shared"}},
    )
    assert [(each.spec.id, each.spec.path) for each in found] == [
        (DEMO_MODEL_ID, DEMO),
        ("org/name", str(tmp_path)),
        ("org/file", None),
    ]
    assert found[0].isolation is Isolation.SHARED


def test_a_folder_in_the_file_counts_for_a_model_that_a_flag_names_without_one() -> None:
    (found,) = deployments(models=("org/name",), deployments={"org/name": {"folder": DEMO}})
    assert found.spec.path == DEMO


def test_the_demo_model_needs_no_folder() -> None:
    (found,) = deployments(deployments={DEMO_MODEL_ID: {"isolation": "sealed"}})
    assert found.spec.path == DEMO


@pytest.mark.parametrize("model", ["", "/srv/model", f"org/name={DEMO}"])
def test_a_deployment_that_names_no_repository_is_refused(model: str) -> None:
    with pytest.raises(SetupError, match="repository id"):
        deployments(deployments={model: {}})


def test_a_model_named_twice_by_flags_is_refused() -> None:
    with pytest.raises(SetupError, match="twice"):
        deployments(models=("org/name", f"org/name={DEMO}"))


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"config\.json"):
        deployments(deployments={"org/name": {"folder": str(tmp_path)}})


def test_a_setting_that_no_model_has_is_refused_by_its_name() -> None:
    with pytest.raises(SetupError, match=r"deployments\.org/name\.isolated"):
        deployments(deployments={"org/name": {"isolated": True}})
