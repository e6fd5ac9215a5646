"""The command, run as a user runs it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxformers import cli

COMMANDS = sorted(path.removesuffix(".py") for path in os.listdir(cli.commands.__path__[0]) if path[0] != "_")


def run(*arguments, stdin="", **options):
    """Run the installed command and hand back what it said."""
    command = [sys.executable, "-m", "jaxformers.cli", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300, **options)


def assert_one_line_error(done, *words):
    assert done.returncode == 2 and done.stdout == "", done
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_mistakes_are_one_line(tmp_path, tiny_bert):
    assert_one_line_error(run("nonsense"), "nonsense", "--help")
    assert_one_line_error(run("embed"), "--model")
    assert_one_line_error(run("embed", "--model", tiny_bert, tmp_path / "absent.txt"), "absent.txt", "No such file")
    assert_one_line_error(run("embed", "--model", tmp_path, "-", stdin="cat\n"), str(tmp_path))
    assert_one_line_error(run("info", tmp_path), str(tmp_path))
    assert_one_line_error(run("demo", "search", "--texts", "0"), "--texts is 0")


def test_traceback_on_request(tmp_path):
    done = run("--traceback", "info", tmp_path)
    assert done.returncode != 0 and "Traceback" in done.stderr


def test_embed_prints_json(tiny_bert):
    done = run("embed", "--model", tiny_bert, "-", "--json", stdin="the cat\n\na “red” house\n")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["the cat", "a “red” house"]
    assert [len(row["embedding"]) for row in rows] == [32, 32]
    assert np.linalg.norm(rows[0]["embedding"]) == pytest.approx(1, abs=1e-5)


def test_embed_writes_an_array(tiny_bert, tmp_path):
    source, out = tmp_path / "texts.jsonl", tmp_path / "vectors"
    source.write_text('{"review": "the dog"}\n{"review": "fast river"}\n')
    done = run("embed", "--model", tiny_bert, source, "--field", "review", "--out", out, "--batch-size", 1)
    assert done.returncode == 0 and done.stdout == "", done.stderr
    assert np.load(out).shape == (2, 32) and np.load(out).dtype == np.float32


def test_search_answers_and_keeps_the_vectors(tiny_bert, tmp_path):
    corpus = tmp_path / "notes.txt"
    corpus.write_text("the cat sat on the mat\n\nthe river runs fast\na red house\n")
    arguments = ("search", "--model", tiny_bert, "--corpus", corpus, "the river runs fast", "--top", 2)
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["query"] == "the river runs fast" and len(answer["answers"]) == 2
    assert answer["answers"][0]["line"] == 3 and answer["answers"][0]["score"] == pytest.approx(1, abs=1e-5)
    kept = (tmp_path / "notes.txt.vectors.npz").stat().st_mtime_ns
    done = run(*arguments)
    assert done.stdout.splitlines()[1].endswith("line 3: the river runs fast")
    assert (tmp_path / "notes.txt.vectors.npz").stat().st_mtime_ns == kept


def test_info_counts_what_the_file_holds(tiny_bert):
    done = run("info", tiny_bert, "--json")
    assert done.returncode == 0, done.stderr
    facts, tensors = json.loads(done.stdout), load_file(tiny_bert / "model.safetensors")
    assert facts["parameters"] == sum(tensor.size for tensor in tensors.values())
    assert facts["bytes"] == sum(tensor.nbytes for tensor in tensors.values())
    assert facts["dtypes"]["float32"]["tensors"] == len(tensors)
    assert sum(row["parameters"] for row in facts["modules"].values()) == facts["parameters"]
    assert "AutoModel" in facts["tasks"] and "AutoModelForSequenceClassification" in facts["tasks"]
    table = run("info", tiny_bert)
    assert table.returncode == 0 and "encoder.layer.*" in table.stdout and "BertModel" in table.stdout


def test_ctrl_c_is_quiet(tiny_bert):
    """The process waits for stdin; the line on stderr says that Python's own start is over."""
    program = "import sys; from jaxformers import cli; print('up', file=sys.stderr, flush=True); sys.exit(cli.main())"
    command = [sys.executable, "-c", program, "embed", "--model", str(tiny_bert), "-"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stderr.readline() == "up\n"
        time.sleep(1)
        # Python drops an interrupt that meets a finaliser, as there are while modules are imported: it is sent again.
        for _ in range(6):
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
                break
        assert process.returncode == 130
        said = process.stderr.read()
        assert said.endswith("interrupted\n") and "\nTraceback" not in f"\n{said.partition('Exception ignored')[0]}"
        assert process.stdout.read() == ""


def test_a_reader_that_stops_early_is_no_error(tiny_bert):
    command = f"{sys.executable} -m jaxformers.cli embed --model {tiny_bert} - | head -n 1"
    texts = "the cat\n" * 3000
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], input=texts, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("\n") == 1 and done.stderr == ""


@pytest.mark.slow
def test_demo_answers_its_questions():
    arguments = ("search", "--texts", "400", "--top", "1", "open a zip archive")
    done = run("demo", *arguments, env={**os.environ, "COLUMNS": "140"})
    assert done.returncode == 0, done.stderr
    assert "zip" in done.stdout.split("what it says")[1].lower() and "texts/s" in done.stdout
