"""Tests of hone against the peers' Python libraries (tests/peers/requirements.txt). Run by `make test-peers`.

HONE_BIN    the program (default build/hone)
HONE_MODEL  the default model (default models/SmolLM2-135M-Instruct.gguf)
Both must be there: a test that cannot find them fails, it is not skipped.
"""
import json
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402  (the environment has to be set before transformers is imported)

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
GOLDEN = ROOT / "tests" / "golden"
HONE_BIN = pathlib.Path(os.environ.get("HONE_BIN", ROOT / "build" / "hone"))
HONE_MODEL = pathlib.Path(os.environ.get("HONE_MODEL", ROOT / "models" / "SmolLM2-135M-Instruct.gguf"))
sys.path[:0] = [str(GOLDEN), str(ROOT / "bench" / "peers")]


def pytest_sessionstart(session):
    if not session.config.option.collectonly and not os.access(HONE_BIN, os.X_OK):
        pytest.exit(f"{HONE_BIN} is missing or cannot be run: run `make` first, or name the program in HONE_BIN", returncode=2)


def run_hone(*arguments, rows=None, exit_code=0):
    """Standard output of `hone ARGUMENTS`, fed with rows as JSONL. Fails with hone's own words where the exit code is another."""
    text = None if rows is None else "".join(json.dumps(row) + "\n" for row in rows)
    done = subprocess.run([str(HONE_BIN), *map(str, arguments)], input=text, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == exit_code, f"hone {' '.join(map(str, arguments))}: exit {done.returncode}, wanted {exit_code}\n{done.stderr[-3000:]}"
    return done.stdout


def filter_rows(command, model, rows, *flags, exit_code=0):
    """The objects that a JSONL filter of hone gives for rows: one for each, in order."""
    # split at \n only: str.splitlines would also cut at U+2028 and others, which may stand in a JSON string
    out = [json.loads(line) for line in run_hone(command, "--model", model, *flags, rows=rows, exit_code=exit_code).split("\n") if line]
    assert len(out) == len(rows)
    return out


def train_hone(model, rows, out, *flags):
    """Runs `hone sft` on rows into the folder `out`; the lines of its metrics.jsonl that belong to steps."""
    out.mkdir(parents=True, exist_ok=True)
    data = out / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_hone("sft", "--model", model, "--data", data, "--output_dir", out / "run", "--dtype", "float32", "--logging_steps", 1, *flags)
    lines = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


@pytest.fixture(scope="session")
def default_model():
    assert HONE_MODEL.exists(), f"{HONE_MODEL} is missing: run `make model` first, or name the file in HONE_MODEL"
    return HONE_MODEL


@pytest.fixture(scope="session")
def smollm2_tokenizer(default_model):
    """The default model's tokenizer as Hugging Face's library runs it, built from the metadata of the GGUF file."""
    from convert_model import metadata, tokenizer_from_gguf

    return tokenizer_from_gguf(metadata(default_model))
