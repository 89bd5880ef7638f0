"""Which store the settings choose, and with which keys."""

from pathlib import Path

import pytest

from edif.blobs.file_blobs import FileBlobs
from edif.blobs.s3_requests import Bucket, Credentials
from edif.core import errors
from edif.core.errors import SetupError
from edif.launch.blobs import bucket_of, open_blobs, open_bucket
from edif.launch.data_folder import DataFolder
from edif.settings import Settings

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
