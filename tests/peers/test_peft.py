"""Adapters: PEFT loads what `hone sft --use_peft` saved with every key used and the same numbers, hone loads what PEFT and bitsandbytes saved."""
import json

import pytest
import torch
from conftest import GOLDEN, filter_rows, run_hone, train_hone
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from test_save import TEXTS, build
from test_score import close, peer_logprobs
from transformers import AutoModelForCausalLM, AutoTokenizer

LORA = ("--use_peft", "--lora_r", 4, "--lora_alpha", 8)
# the base (a shape of test_save.py), the options of hone
OPTIONS = {
    "default": ("tied", ()),
    "bias": ("mqa_bias", ()),
    "half": ("head_dim_bf16", ()),
    "rslora": ("tied", ("--use_rslora",)),
    "dora": ("mqa_bias", ("--use_dora",)),
    "gaussian": ("tied", ("--init_lora_weights", "gaussian")),
    "pissa": ("mqa_bias", ("--init_lora_weights", "pissa")),
    "names": ("tied", ("--lora_target_modules", "q_proj,v_proj")),
    "regex": ("tied", ("--lora_target_modules", r".*layers\.1\..*(q_proj|down_proj)")),
    "head_tied": ("tied", ("--lora_target_modules", "q_proj", "--lora_modules_to_save", "lm_head")),
    "head_untied": ("mqa_bias", ("--lora_target_modules", "q_proj", "--lora_modules_to_save", "lm_head")),
}
# Two float32 programs over two layers (test_score.py); weights after training are larger than the random ones there.
TOLERANCE = 2e-5


def base_model(source):
    return AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()


def rows_of_scores(*arguments):
    return filter_rows("score", *arguments[:1], [{"text": t * 3} for t in TEXTS], "--dtype", "float32", *arguments[1:])


@pytest.fixture(scope="module", params=list(OPTIONS))
def trained(request, tmp_path_factory):
    """(base, adapter directory) after three steps of hone on the golden conversations."""
    folder = tmp_path_factory.mktemp("peft")
    shape, options = OPTIONS[request.param]
    source = build(shape, folder / "source")
    rows = [json.loads(line) for line in (GOLDEN / "trl_sft" / "messages.jsonl").read_text().splitlines()]
    steps = train_hone(source, rows, folder / "out", *LORA, *options, "--max_steps", 3, "--batch_size", 4, "--learning_rate", "1e-2", "--lr_scheduler_type",
                       "constant")
    assert len(steps) == 3
    return source, folder / "out" / "run" / "model"


def test_peft_uses_every_key_and_scores_agree(trained):
    source, folder = trained
    model = PeftModel.from_pretrained(base_model(source), folder)
    result = model.load_adapter(folder, adapter_name="again")  # the same once more: this call tells what was not used
    assert not result.unexpected_keys and not result.missing_keys, result
    stored, state = load_file(folder / "adapter_model.safetensors"), model.state_dict()
    named = {k: v for k, v in state.items() if ".default" in k}
    assert len(named) == len(stored)  # nothing of the adapter was left as PEFT initialised it
    for key, value in stored.items():
        found = [v for k, v in named.items() if k.replace(".modules_to_save", "").replace(".default", "").removesuffix(".weight") == key.removesuffix(".weight")]
        assert len(found) == 1 and bool((found[0] == value).all()), key
    base = base_model(source)
    for row in rows_of_scores(source, "--adapter", folder):
        close(row["logprobs"], peer_logprobs(model.eval(), row["ids"]), TOLERANCE)
        moved = max(abs(a - b) for a, b in zip(row["logprobs"], peer_logprobs(base, row["ids"])))
        assert moved > 1e-3, "the adapter changes nothing"


def test_merging_gives_what_peft_merges(trained, tmp_path):
    source, folder = trained
    run_hone("merge", "--model", source, "--adapter", folder, "--output_dir", tmp_path / "merged")
    wanted = PeftModel.from_pretrained(base_model(source), folder).merge_and_unload().state_dict()
    found, info = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    stored = {str(t.dtype) for file in (tmp_path / "merged").glob("*.safetensors") for t in load_file(file).values()}
    # one rounding of the sum, and that of the saved type
    bound = {"torch.float32": 1e-6, "torch.bfloat16": 2**-8, "torch.float16": 2**-11}[max(stored)]
    for name, weight in found.state_dict().items():
        assert bool(torch.isfinite(weight).all()), name
        assert ((weight - wanted[name]).abs() <= bound * wanted[name].abs().clamp(min=1)).all(), name


def test_the_auto_class_opens_an_adapter_of_a_gguf_base(tmp_path):
    """The road of docs/lora.md: trained on a GGUF file, the base made a directory, the adapter written anew on it."""
    source = GOLDEN / "models" / "chat"
    run_hone("convert", "--model", source, "--output", tmp_path / "base.gguf", "--gguf_type", "q8_0")
    rows = [json.loads(line) for line in (GOLDEN / "trl_sft" / "messages.jsonl").read_text().splitlines()]
    train_hone(tmp_path / "base.gguf", rows, tmp_path / "out", *LORA, "--max_steps", 3, "--batch_size", 4, "--learning_rate", "1e-2")
    trained = tmp_path / "out" / "run" / "model"
    run_hone("convert", "--model", tmp_path / "base.gguf", "--output", tmp_path / "base")
    run_hone("convert", "--model", tmp_path / "base", "--adapter", trained, "--output", tmp_path / "adapter")
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    for row in rows_of_scores(tmp_path / "base.gguf", "--adapter", trained):
        close(row["logprobs"], peer_logprobs(model, row["ids"]), TOLERANCE)
        assert tokenizer.decode(row["ids"]) == AutoTokenizer.from_pretrained(source).decode(row["ids"])


@pytest.mark.parametrize("name", sorted(f.name for f in (GOLDEN / "peft").iterdir() if f.name != "pissa"))
def test_hone_scores_with_adapters_of_peft(name):
    """Against the float64 oracle: make_peft.py says how it was made."""
    folder = GOLDEN / "peft" / name
    oracle = load_file(folder / "oracle.safetensors")
    base = GOLDEN / json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    given = filter_rows("score", base, [{"ids": oracle[f"ids.{k}"].tolist()} for k in range(3)], "--adapter", folder, "--dtype", "float32")
    for k, row in enumerate(given):
        close(row["logprobs"], oracle[f"logprobs.{k}"].tolist(), TOLERANCE)


def test_an_unconverted_pissa_adapter_is_refused():
    run_hone("score", "--model", GOLDEN / "models" / "tied_gqa2", "--adapter", GOLDEN / "peft" / "pissa", rows=[{"ids": [1, 2, 3]}], exit_code=2)


@pytest.mark.parametrize("name", ["nf4", "nf4_nested", "fp4_nested", "nf4_bf16"])
def test_hone_scores_with_checkpoints_of_bitsandbytes(name):
    oracle = load_file(GOLDEN / "bnb" / name / "oracle.safetensors")
    given = filter_rows("score", GOLDEN / "bnb" / name, [{"ids": oracle[f"ids.{k}"].tolist()} for k in range(3)], "--dtype", "float32")
    for k, row in enumerate(given):
        close(row["logprobs"], oracle[f"logprobs.{k}"].tolist(), TOLERANCE)
        if name == "nf4_bf16":
            continue  # bitsandbytes rounds these weights to bfloat16 before it multiplies
        peer = torch.log_softmax(oracle[f"peer_logits.{k}"][:-1].double(), -1).gather(1, oracle[f"ids.{k}"].long()[1:, None])[:, 0]
        close(row["logprobs"], peer.tolist(), TOLERANCE)


def test_training_goes_on_from_an_adapter_of_peft(tmp_path):
    """Ranks and alphas that differ by module survive a round through hone."""
    source = build("tied", tmp_path / "source")
    options = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", rank_pattern={"v_proj": 2}, alpha_pattern={"q_proj": 3})
    model = get_peft_model(base_model(source), options)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    model.save_pretrained(tmp_path / "peft")
    rows = [json.loads(line) for line in (GOLDEN / "trl_sft" / "messages.jsonl").read_text().splitlines()]
    train_hone(source, rows, tmp_path / "out", "--adapter", tmp_path / "peft", "--max_steps", 2, "--batch_size", 4, "--learning_rate", "1e-3")
    folder = tmp_path / "out" / "run" / "model"
    again = PeftModel.from_pretrained(base_model(source), folder).eval()
    for name, module in again.base_model.model.named_modules():
        if hasattr(module, "lora_A"):
            rank, alpha = 2 if "v_proj" in name else 4, 3 if "q_proj" in name else 8
            assert module.lora_A["default"].weight.shape[0] == rank and module.scaling["default"] == alpha / rank, name
    for row in rows_of_scores(source, "--adapter", folder):
        close(row["logprobs"], peer_logprobs(again, row["ids"]), TOLERANCE)
