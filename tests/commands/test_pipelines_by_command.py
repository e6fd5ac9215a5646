"""The commands that go through pipelines and generate, run as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers
from PIL import Image

from jaxformers import cli
from jaxformers.commands.transcribe import clock, written
from tests.parity.rows.detr import SIZES as DETR
from tests.pipelines.tiny_pipes import LLAMA, SMALL, T5, byte_pairs, pieces, save, word_pieces


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("commands")
    (home / "classify").mkdir()
    words = word_pieces(home / "classify")
    save(home / "classify", "BertForSequenceClassification", words, max_position_embeddings=128, num_labels=3, **SMALL)
    tokenizer = byte_pairs(pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    ids = dict(pad_token_id=0, eos_token_id=1, bos_token_id=2)
    save(home / "llama", "LlamaForCausalLM", tokenizer, 0.1, **LLAMA, **ids)
    save(home / "t5", "T5ForConditionalGeneration", pieces(), 0.1, **T5, pad_token_id=0, eos_token_id=1)
    transformers.set_seed(0)
    detr = transformers.DetrForObjectDetection(transformers.DetrConfig(num_labels=4, **DETR))
    detr.save_pretrained(home / "detr")
    sizes = {"shortest_edge": 64, "longest_edge": 96}
    transformers.DetrImageProcessorPil(size=sizes).save_pretrained(home / "detr")
    return {name: home / name for name in ("classify", "llama", "t5", "detr")}


def run(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """A command's stdout; its status must be 0."""
    status = cli.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


def greedy(folder: Path, prompt: str, new: int) -> str:
    """What transformers writes after a prompt."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=new)[0]
    return tokenizer.decode(ids[inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_generate(folders, capsys):
    want = greedy(folders["llama"], "The cat", 6)
    streamed = run(capsys, "generate", "--model", folders["llama"], "--max-new-tokens", 6, "The cat")
    assert streamed == f"The cat{want}\n"
    lines = run(capsys, "generate", "--model", folders["llama"], "--max-new-tokens", 6, "--json", "The cat", "A dog")
    records = [json.loads(line) for line in lines.splitlines()]
    assert records[0] == {"generated_text": f"The cat{want}"} and len(records) == 2
    alone = ("--no-prompt", "--temperature", 0.8, "--top-k", 5, "--seed", 3, "--max-new-tokens", 5)
    first = run(capsys, "generate", "--model", folders["llama"], *alone, "The")
    assert first == run(capsys, "generate", "--model", folders["llama"], *alone, "The")
    answered = run(capsys, "generate", "--model", folders["t5"], "--max-new-tokens", 4, "--num-beams", 2, "the cat")
    assert answered.endswith("\n")


def test_chat_reads_stdin(folders):
    """In a process of its own, as a pipe is no terminal."""
    command = [
        sys.executable,
        "-m",
        "jaxformers.cli",
        "chat",
        "--model",
        str(folders["llama"]),
        "--max-new-tokens",
        "5",
    ]
    said = "How?\n/nonsense\n/clear\nWhy?\n"
    done = subprocess.run(command, input=said, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    want = [greedy(folders["llama"], f"user: {x}\n", 5) for x in ("How?", "Why?")]
    assert done.stdout == "".join(f"{answer}\n" for answer in want)
    assert "'/nonsense' is no command" in done.stderr


def test_classify(folders, tmp_path, capsys):
    texts = tmp_path / "texts.txt"
    texts.write_text("the cat\n\na red house\n")
    lines = run(capsys, "classify", "--model", folders["classify"], texts, "--top", 2, "--json").splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["input"] for r in records] == ["the cat", "a red house"]
    theirs = transformers.pipeline("text-classification", model=str(folders["classify"]), top_k=2, device="cpu")
    for record, want in zip(records, theirs(["the cat", "a red house"]), strict=True):
        assert [x["label"] for x in record["labels"]] == [x["label"] for x in want]
    plain = run(capsys, "classify", "--model", folders["classify"], texts)
    assert plain.splitlines()[0].endswith("\tthe cat")
    status = cli.main(["classify", "--model", str(folders["llama"]), str(texts), "--top", "0"])
    assert status == 2 and "--top is 0" in capsys.readouterr().err


def test_run_any_task(folders, capsys):
    assert "fill-mask" in run(capsys, "run", "--list").splitlines()
    out = run(capsys, "run", "text-classification", "--model", folders["classify"], "the cat", "--set", "top_k=3")
    assert len(json.loads(out)) == 3
    status = cli.main(["run", "text-classification", "--model", str(folders["classify"]), '{"words": 1}', "the dog"])
    out, err = capsys.readouterr()
    first, second = (json.loads(line) for line in out.splitlines())
    assert status == 2 and "input 0" in first["error"] and second["label"] and err.startswith("jaxformers run: error")


def test_detect_draws(folders, tmp_path, capsys):
    pixels = np.random.RandomState(0).randint(0, 255, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "street.png")
    boxes = tmp_path / "boxes.png"
    out = run(
        capsys, "detect", "--model", folders["detr"], "--threshold", 0.05, "--json", "--out", boxes,
        tmp_path / "street.png",
    )  # fmt: skip
    objects = json.loads(out)["objects"]
    assert objects and set(objects[0]) == {"score", "label", "box"}
    with Image.open(boxes) as drawn:
        assert drawn.size == (70, 50) and (np.asarray(drawn) != pixels).any()
    status = cli.main(["detect", "--model", str(folders["detr"]), str(tmp_path / "absent.png")])
    assert status == 2 and "absent.png" in capsys.readouterr().err


def test_subtitles():
    chunks = [
        {"text": " The cat.", "timestamp": (0.0, 1.5)},
        {"text": " It sat.", "timestamp": (3661.25, None)},
    ]
    result = {"text": " The cat. It sat.", "chunks": chunks}
    assert written("txt", result) == "The cat. It sat."
    assert written("srt", result) == (
        "1\n00:00:00,000 --> 00:00:01,500\nThe cat.\n\n2\n01:01:01,250 --> 01:01:01,250\nIt sat."
    )
    assert written("vtt", result).startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nThe cat.\n")
    assert json.loads(written("json", result))["text"] == result["text"]
    assert clock(59.9996, "srt") == "00:01:00,000"
