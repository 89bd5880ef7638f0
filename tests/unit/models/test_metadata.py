"""Which files of a model a client may have."""

import os
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from edif.models.catalogue import DEMO_MODEL_PATH
from edif.models.metadata import (
    MAX_METADATA_BYTES,
    is_metadata,
    is_weights,
    metadata_files,
    revision_of,
)

METADATA = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "README.md",
    "qwen.tiktoken",
    "adapter_config.json",
    "sub/folder/config.json",
    "CONFIG.JSON",
]
WEIGHTS = [
    "model.safetensors",
    "model-00001-of-00002.safetensors",
    "pytorch_model.bin",
    "consolidated.00.pth",
    "model.pt",
    "model.ckpt",
    "tf_model.h5",
    "flax_model.msgpack",
    "model.gguf",
    "onnx/model.onnx",
    "weights.npz",
    "rust_model.ot",
    "MODEL.SAFETENSORS",
    "sub/pytorch_model.BIN",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "PYTORCH_MODEL.BIN.INDEX.JSON",
    "model.safetensors.index.json/.",
    "sub//model.safetensors/",
]
NEITHER = [
    "",
    ".",
    "..",
    "model",
    "modeling_custom.py",
    "script.sh",
    "model.pkl",
    ".gitattributes",
    ".git/config.json",
    ".hidden.json",
    "sub/.cache/config.json",
    "/etc/config.json",
    "../config.json",
    "sub/../../config.json",
    "sub/../config.json",
    "config.json\0",
    "con\0fig.json",
    "\0/config.json",
]


@pytest.mark.parametrize("name", METADATA)
def test_what_a_client_needs_is_metadata(name: str) -> None:
    assert is_metadata(name)
    assert not is_weights(name)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_weights_and_no_metadata(name: str) -> None:
    assert is_weights(name)
    assert not is_metadata(name)


@pytest.mark.parametrize("name", NEITHER, ids=repr)
def test_everything_else_stays_on_the_node(name: str) -> None:
    assert not is_metadata(name)


PARTS = st.sampled_from(
    [
        "a",
        "..",
        ".",
        "",
        "config.json",
        "model.safetensors",
        ".json",
        ".bin",
        "\0",
        "~",
        "x.index.json",
        "\\",
        " ",
    ]
) | st.text(max_size=6)
NAMES = st.lists(PARTS, max_size=5).map("/".join) | st.lists(PARTS, max_size=5).map("".join)


@given(NAMES | st.text(max_size=20))
def test_metadata_is_never_weights_and_never_leaves_its_folder(name: str) -> None:
    if not is_metadata(name):
        return
    assert not is_weights(name)
    folder = Path("/srv/models/m")
    target = Path(os.path.normpath(folder / name))
    assert target.is_relative_to(folder)
    assert target != folder
    inside = target.relative_to(folder)
    assert not any(part.startswith(".") for part in inside.parts)
    assert not is_weights(inside.as_posix()), "the same file under its plain name"


@given(NAMES, st.sampled_from([".safetensors", ".bin", ".pt", ".gguf", ".BIN", ".safetensors.index.json"]))
def test_nothing_with_the_ending_of_weights_is_metadata(name: str, ending: str) -> None:
    assert not is_metadata(name + "x" + ending)


def test_files_of_a_folder_are_its_metadata_by_name(tmp_path: Path) -> None:
    for name in (*METADATA, *WEIGHTS[:-2], "modeling_custom.py", ".cache/config.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    found = list(metadata_files(tmp_path))
    assert [name for name, _ in found] == sorted(METADATA, key=lambda name: Path(name).parts)
    assert all(path.read_text() == name for name, path in found)


def test_file_that_is_too_large_is_left_out(tmp_path: Path) -> None:
    for name, size in (("fits.json", MAX_METADATA_BYTES), ("large.json", MAX_METADATA_BYTES + 1)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    assert [name for name, _ in metadata_files(tmp_path)] == ["fits.json"]


def test_folders_and_broken_links_named_like_metadata_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "broken.json").symlink_to(tmp_path / "nowhere")
    assert list(metadata_files(tmp_path)) == []


def test_demo_model_has_what_a_client_needs() -> None:
    names = {name for name, _ in metadata_files(DEMO_MODEL_PATH)}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= names


# -- the revision --------------------------------------------------------------------------------------
FILES = st.dictionaries(st.text(max_size=8), st.binary(max_size=8), max_size=4)


@given(FILES, FILES)
def test_revisions_tell_sets_of_files_apart(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert (revision_of(one) == revision_of(other)) is (one == other)


@given(FILES)
def test_revision_looks_like_a_commit_and_does_not_depend_on_order(files: dict[str, bytes]) -> None:
    revision = revision_of(files)
    assert len(revision) == 40
    assert int(revision, 16) >= 0
    assert revision_of(dict(reversed(files.items()))) == revision


def test_revision_changes_when_bytes_move_between_files() -> None:
    assert revision_of({"a": b"xy", "b": b""}) != revision_of({"a": b"x", "b": b"y"})
    assert revision_of({"ab": b""}) != revision_of({"a": b"b"})
