"""Finding a checkpoint: local paths, the Hub's cache without a network, and what is asked of the Hub."""

from pathlib import Path

import huggingface_hub
import pytest

from jaxformers.core.errors import CheckpointError
from jaxformers.hub.checkpoint import open_checkpoint
from jaxformers.hub.download import FILES, resolve, wanted
from jaxformers.hub.safetensors import write

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LISTING = [
    *(
        ".gitattributes",
        "README.md",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "merges.txt",
        "vocab.json",
    ),
    *("spiece.model", "preprocessor_config.json", "chat_template.jinja", "1_Pooling/config.json", "modules.json"),
    *("model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "flax_model.msgpack", "tf_model.h5", "training_args.bin"),
    *("onnx/model.onnx", "onnx/config.json", "original/model.safetensors", "model.fp16.safetensors"),
]


@pytest.fixture
def cache(tmp_path):
    """A Hub cache that holds one small repository."""
    import numpy as np

    repository = tmp_path / "cache" / "models--owner--name"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text("{}")
    write(snapshot / "model.safetensors", {"a": np.ones(3, np.float32)})
    return tmp_path / "cache"


@pytest.fixture
def online(monkeypatch):
    """A Hub that is reachable, and a record of what is asked of it."""
    asked = {}

    def snapshot_download(repo_id, **options):
        asked.update(options, repo_id=repo_id)
        return "/downloaded"

    def list_repo_files(self, repo_id, *, revision=None):
        asked.update(listed=repo_id, token_of_listing=self.token)
        return LISTING

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", list_repo_files)
    return asked


def test_local_paths_are_taken_as_they_are(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(file)) == file


@pytest.mark.parametrize(
    "source", ["./nowhere", "/no/such/folder", "a/b/c", "bad name!", "", "owner/name/", Path("x/y")]
)
def test_neither_a_path_nor_an_id(source):
    with pytest.raises(CheckpointError, match="does not exist and is no Hub id"):
        resolve(source)


def test_offline_from_the_cache(cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = resolve("owner/name", cache_dir=cache)
    assert folder.name == COMMIT
    assert open_checkpoint(folder)["a"].sum() == 3
    assert resolve("owner/name", cache_dir=cache, revision=COMMIT, local_files_only=True) == folder


def test_offline_and_not_cached(cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for source, options in (("owner/other", {}), ("owner/name", {"revision": "v2"})):
        with pytest.raises(CheckpointError, match=r"not in the local cache and the network is off\. Download it once"):
            resolve(source, cache_dir=cache, **options)
    (cache / "models--owner--name" / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="the cached part of owner/name: no weights"):
        resolve("owner/name", cache_dir=cache)
    assert resolve("owner/name", cache_dir=cache, weights=False).name == COMMIT


def test_a_snapshot_fetched_in_part_serves_offline(cache, monkeypatch):
    def incomplete(repo_id, **options):
        error = FileNotFoundError("incomplete")
        error.snapshot_path = str(cache / "models--owner--name" / "snapshots" / COMMIT)
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", incomplete)
    assert resolve("owner/name", local_files_only=True).name == COMMIT


def test_only_the_best_weights_are_fetched(online):
    assert resolve("owner/name", revision="v1", token="secret", cache_dir="/cache") == Path("/downloaded")
    assert online["repo_id"] == online["listed"] == "owner/name"
    assert online["revision"] == "v1" and online["token"] == online["token_of_listing"] == "secret"
    assert online["cache_dir"] == "/cache"
    fetched = set(online["allow_patterns"])
    assert fetched == {
        *("config.json", "generation_config.json", "tokenizer.json", "merges.txt", "vocab.json", "spiece.model"),
        *("preprocessor_config.json", "chat_template.jinja", "1_Pooling/config.json", "modules.json"),
        *("model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
    }


def test_variants_and_no_weights(online):
    assert "model.fp16.safetensors" in wanted(LISTING, FILES, "fp16", True, "x")
    assert not [name for name in wanted(LISTING, FILES, None, False, "x") if "model." in name and "spiece" not in name]
    resolve("owner/name", patterns=["config.json"], weights=False)
    assert online["allow_patterns"] == ["config.json"]
    with pytest.raises(CheckpointError, match=r"owner/name: no weights among .*Check the folder and the variant"):
        resolve("owner/name", variant="int4")


def test_no_network_falls_back_on_the_cache(cache, monkeypatch):
    def unreachable(self, *_, **__):
        raise ConnectionError("Temporary failure in name resolution\nmore lines")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", unreachable)
    assert resolve("owner/name", cache_dir=cache).name == COMMIT
    with pytest.raises(
        CheckpointError, match=r"could not be fetched from the Hub \(ConnectionError: Temporary failure"
    ):
        resolve("owner/other", cache_dir=cache)
