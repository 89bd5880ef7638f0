"""Which store the settings choose, and with which keys."""

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from edif.blobs.file_blobs import FileBlobs
from edif.blobs.s3_blobs import S3Blobs
from edif.blobs.s3_requests import Bucket, Credentials
from edif.core import errors
from edif.core.errors import SetupError
from edif.launch.blobs import bucket_of, open_blobs, open_bucket
from edif.launch.data_folder import DataFolder
from edif.settings import Settings, load
from tests.unit.docs import DOCS, blocks

KEYS = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "S"}


def test_without_a_setting_it_is_the_folder(tmp_path: Path) -> None:
    assert bucket_of(Settings(), KEYS) is None
    assert isinstance(open_blobs(Settings(), DataFolder(tmp_path)), FileBlobs)


def test_settings_go_before_the_usual_variables() -> None:
    variables = {
        **KEYS,
        "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": "https://all",
        "AWS_SESSION_TOKEN": "T",
    }
    assert bucket_of(Settings(blobs="s3://bkt/some/lab/"), variables) == Bucket(
        "bkt", "some/lab", "https://all", "eu-west-1", Credentials("A", "S", "T")
    )
    ours = Settings(blobs="s3://bkt", blobs_endpoint="http://h:9000/", blobs_region="lab")
    assert bucket_of(ours, variables) == Bucket("bkt", "", "http://h:9000", "lab", Credentials("A", "S", "T"))


def test_bucket_without_an_endpoint_is_amazons_and_without_keys_the_machines_role_lets_in() -> None:
    found = bucket_of(Settings(blobs="s3://bkt", blobs_region="eu-central-1"), {})
    assert found == Bucket("bkt", "", "https://s3.eu-central-1.amazonaws.com", "eu-central-1", None)


def test_keys_from_a_file_go_before_those_of_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("[default]\naws_access_key_id = FILE\naws_secret_access_key = a%b=c\n")
    found = bucket_of(Settings(blobs="s3://bkt", blobs_credentials=file), KEYS)
    assert found is not None
    assert found.credentials == Credentials("FILE", "a%b=c")
    assert "a%b=c" not in repr(found)


@pytest.mark.parametrize("content", [None, b"", b"no section", b"[other]\na=b", b"[default]\nx=1", b"\xff"])
def test_file_without_keys_is_said_so(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SetupError) as refused:
        bucket_of(Settings(blobs="s3://bkt", blobs_credentials=file), KEYS)
    assert refused.value.kind is errors.CONFIG_INVALID
    assert str(file) in refused.value.sentence


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_authorities_that_cannot_be_read_are_said_so(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SetupError) as refused:
        open_bucket(Settings(blobs="s3://bkt", blobs_ca=file), DataFolder(tmp_path))
    assert refused.value.kind is errors.CONFIG_INVALID
    assert str(file) in refused.value.sentence


# -- what the pages show -------------------------------------------------------------------------------
def shown() -> list[str]:
    return [block for block in blocks("configuration.md", "toml") if block.startswith("blobs")]


def test_examples_of_the_page_are_settings_that_name_these_buckets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edif.settings._config_file", None)  # which is put back afterwards
    keys, file = tmp_path / "keys", tmp_path / "edif.toml"
    keys.write_text("[default]\naws_access_key_id = FILE\naws_secret_access_key = a%b=c\n")
    found = []
    for text in shown():
        file.write_text(text.replace("/etc/edif/s3-keys", str(keys)))
        found.append(bucket_of(load(file), {}))
    endpoint, ca = "https://minio.example.org:9000", "/etc/edif/ca.pem"
    assert found == [
        Bucket("edif-results", "lab", endpoint, "us-east-1", Credentials("FILE", "a%b=c"), ca),
        Bucket("edif-results", "lab", "https://s3.eu-central-1.amazonaws.com", "eu-central-1", None),
    ]


def test_links_have_the_bucket_in_their_path_as_the_page_says(tmp_path: Path) -> None:
    bucket = Bucket(
        "edif-results", "lab", "https://minio.example.org:9000", "us-east-1", Credentials("A", "S")
    )
    link = asyncio.run(S3Blobs(bucket, tmp_path).link("result/j1-1", 60))
    assert link.startswith("https://minio.example.org:9000/edif-results/lab/result/j1-1?")
    amazon = replace(bucket, endpoint="https://s3.eu-central-1.amazonaws.com", region="eu-central-1")
    link = asyncio.run(S3Blobs(amazon, tmp_path).link("result/j1-1", 60))
    assert link.startswith("https://s3.eu-central-1.amazonaws.com/edif-results/lab/result/j1-1?")


def test_the_lifecycle_rule_of_the_page_ends_unfinished_uploads_below_the_prefix_and_nothing_else() -> None:
    (text,) = blocks("configuration.md", "json")
    (rule,) = json.loads(text)["Rules"]
    assert rule.pop("ID")
    assert rule == {
        "Status": "Enabled",
        "Filter": {"Prefix": "lab/"},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }


def test_the_page_names_every_variable_that_is_read() -> None:
    read: set[str] = set()

    class Seen(dict[str, str]):
        def get(self, name: str, default: object = None) -> None:  # type: ignore[override]
            read.add(name)

    bucket_of(Settings(blobs="s3://bkt"), Seen())
    page = (DOCS / "configuration.md").read_text()
    named = set(re.findall(r"`(AWS_\w+)`", page))
    assert named == {*read, "AWS_SESSION_TOKEN"}, "the token is asked for where there are keys"
