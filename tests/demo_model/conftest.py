"""What the demo model's tests share: the corpus generator, the shipped checkpoint and its tokenizer."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "src" / "edif" / "models" / "demo"


def _load_corpus() -> ModuleType:
    """Import the generator from its file: it is a development script, in no installed package."""
    spec = importlib.util.spec_from_file_location("demo_corpus", ROOT / "demo_model" / "corpus.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def corpus() -> ModuleType:
    return _load_corpus()


@pytest.fixture(scope="session")
def documents(corpus: ModuleType) -> list[tuple[str, ...]]:
    """The whole training corpus of the shipped checkpoint."""
    return list(corpus.documents())


@pytest.fixture(scope="session")
def passages(documents: list[tuple[str, ...]]) -> list[str]:
    return [passage for document in documents for passage in document]


@pytest.fixture(scope="session")
def folder() -> Path:
    return CHECKPOINT


@pytest.fixture(scope="session")
def tokenizer(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="module")
def model(folder: Path):
    import torch
    from transformers import AutoModelForCausalLM

    # The model is too small to gain from a second thread, and on a busy machine threads wait for each other.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    torch.set_num_threads(threads)
