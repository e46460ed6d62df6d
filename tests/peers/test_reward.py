"""Reward models: transformers and PEFT give the scores of hone for what hone saved, and hone those of theirs for what they saved."""
import json
import math

import pytest
import torch
from conftest import GOLDEN, filter_rows, run_hone
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from test_save import build
from transformers import AutoModelForSequenceClassification, AutoTokenizer

# Two float32 programs over two layers (test_score.py).
TOLERANCE = 2e-5
QUESTIONS = ["How many apples?", "Anna has 12 books and buys 7 more. How many books does Anna have now?", "naïve 你好?"]
ANSWERS = ["19.", "There are 19 books on the shelf, and there are no others.", "I do not know."]
GRADED = [{"prompt": [{"role": "user", "content": q}], "completion": a} for q in QUESTIONS for a in ANSWERS] + [{"prompt": "2 + 2 =", "completion": " 4"}]


def classifier(folder, **options):
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, **options).eval()


def sequences(tokenizer):
    """The ids of GRADED: prompt and completion apart, up to the end-of-turn token."""
    for row in GRADED:
        chat = not isinstance(row["prompt"], str)
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False) if chat else row["prompt"]
        yield tokenizer.encode(prompt, add_special_tokens=False) + tokenizer.encode(row["completion"], add_special_tokens=False) + [tokenizer.eos_token_id]


def peer_scores(model, tokenizer):
    """All in one padded batch: that is where a wrong padding token shows."""
    ids = list(sequences(tokenizer))
    longest = max(map(len, ids))
    padded = torch.tensor([i + [model.config.pad_token_id] * (longest - len(i)) for i in ids])
    mask = torch.tensor([[1] * len(i) + [0] * (longest - len(i)) for i in ids])
    with torch.no_grad():
        return model(input_ids=padded, attention_mask=mask).logits[:, 0].tolist()


def grades(folder, *flags):
    out = run_hone("grade", "--reward", f"model:{folder}", "--dtype", "float32", *flags, rows=GRADED)
    return [json.loads(line)["reward"] for line in out.splitlines()]


def same(given, wanted):
    assert len(given) == len(wanted) == len(GRADED)
    assert all(math.isfinite(a) and abs(a - b) <= TOLERANCE * max(1, abs(b)) for a, b in zip(given, wanted)), list(zip(given, wanted))
    assert max(given) - min(given) > 1e-3, "the scores do not differ"


def randomized(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ("score" in name or "lora" in name):
            parameter.data = (0.5 if "score" in name else 0.2) * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("shape", ["tied", "mqa_bias", "head_dim_bf16"])
def test_hone_scores_with_a_model_of_transformers(shape, tmp_path):
    source = build(shape, tmp_path / "source")
    model = randomized(classifier(source, num_labels=1), 3)
    model.config.pad_token_id = 0
    model.save_pretrained(tmp_path / "reward")
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(tmp_path / "reward")
    same(grades(tmp_path / "reward"), peer_scores(model, tokenizer))


def test_hone_scores_with_an_adapter_of_peft(tmp_path):
    source = build("mqa_bias", tmp_path / "source")
    base = classifier(source, num_labels=1)
    base.config.pad_token_id = 0
    model = randomized(get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules="all-linear")), 5)
    model.save_pretrained(tmp_path / "adapter")
    wanted = peer_scores(model.eval(), AutoTokenizer.from_pretrained(source))
    same(grades(tmp_path / "adapter", "--model", source), wanted)
    same(grades(tmp_path / "adapter"), wanted)  # the adapter names its base
    same(grades(source, "--adapter", tmp_path / "adapter"), wanted)


def train_reward(source, folder, *flags):
    pairs = [{"prompt": [{"role": "user", "content": f"Anna has {a} apples and buys {b} more. How many?"}], "chosen": f"{a} + {b} = {a + b}.",
              "rejected": f"There are {a} apples."} for a in range(2, 8) for b in (3, 5)]
    folder.mkdir()
    (folder / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    run_hone("reward", "--model", source, "--data", folder / "pairs.jsonl", "--eval_file", folder / "pairs.jsonl", "--output_dir", folder / "run", "--dtype",
             "float32", "--max_steps", 6, "--batch_size", 4, "--learning_rate", "1e-2", "--lr_scheduler_type", "constant", *flags)
    return folder / "run"


@pytest.mark.parametrize("shape", ["tied", "mqa_bias", "gguf"])
def test_transformers_scores_with_a_model_of_hone(shape, tmp_path):
    source = build(shape, tmp_path / "source")
    run = train_reward(source, tmp_path / "out")
    model, info = AutoModelForSequenceClassification.from_pretrained(run / "model", dtype=torch.float32, output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info.get(key), (key, info[key])
    assert model.config.num_labels == 1 and model.config.architectures == ["LlamaForSequenceClassification"]
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0 and tokenizer.eos_token_id == 2
    same(grades(run / "model"), peer_scores(model.eval(), tokenizer))
    report = json.loads((run / "reward_report.json").read_text())
    assert report["rows"] == 12 and report["eval_rewards/accuracies"] > 0.5  # six steps on these very pairs


def test_peft_scores_with_an_adapter_of_hone(tmp_path):
    source = build("mqa_bias", tmp_path / "source")
    folder = train_reward(source, tmp_path / "out", "--use_peft", "--lora_r", 4, "--lora_alpha", 8) / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = classifier(source, num_labels=1, pad_token_id=tokenizer.pad_token_id)
    model = PeftModel.from_pretrained(base, folder)
    result = model.load_adapter(folder, adapter_name="again")
    assert not result.unexpected_keys and not result.missing_keys, result
    stored, named = load_file(folder / "adapter_model.safetensors"), {k: v for k, v in model.state_dict().items() if ".default" in k}
    assert len(named) == len(stored)
    assert "base_model.model.score.weight" in stored
    model.set_adapter("default")
    same(grades(folder), peer_scores(model.eval(), tokenizer))


@pytest.mark.parametrize("flags", [("--use_peft",), ("--load_in_4bit",)])
def test_transformers_scores_with_a_merged_adapter(flags, tmp_path):
    source = build("mqa_bias", tmp_path / "source")
    adapter = train_reward(source, tmp_path / "out", "--lora_r", 4, "--lora_alpha", 8, *flags) / "model"
    merged = tmp_path / "merged"
    run_hone("merge", "--model", source, "--adapter", adapter, "--output_dir", merged)
    model, info = AutoModelForSequenceClassification.from_pretrained(merged, num_labels=1, dtype=torch.float32, output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info.get(key), (key, info[key])
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0
    same(grades(adapter), peer_scores(model.eval(), tokenizer))


def test_a_language_model_is_no_reward_model_and_the_other_way_round(tmp_path):
    source = build("tied", tmp_path / "source")
    run_hone("grade", "--reward", f"model:{source}", rows=GRADED, exit_code=2)
    run_hone("score", "--model", GOLDEN / "trl_reward" / "tied", rows=[{"ids": [1, 2]}], exit_code=2)
    filter_rows("score", source, [{"ids": [1, 2]}])
