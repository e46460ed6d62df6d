#!/usr/bin/env python3
"""Turns a llama GGUF file into a directory that the peers load: config.json, float32 safetensors, tokenizer files.

usage: convert_model.py MODEL.gguf OUT_DIR      (needs bench/peers/requirements.txt)
       convert_model.py --reward DIR OUT_DIR    the directory's model as a reward model with a score head drawn at random, seed 0

The weights are read by transformers. Its GGUF reader builds a GPT-2 tokenizer that ignores tokenizer.ggml.pre, so digits would be merged and peers
would train on other ids than hone; the tokenizer is therefore made here from the metadata, with single digits where the file says "smollm".
"""
import argparse
import json
import pathlib

import gguf
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast


def metadata(path):
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items() if not name.startswith("GGUF.")}


def tokenizer_from_gguf(fields):
    """The byte-level BPE tokenizer of a GGUF file's metadata, as Hugging Face's fast tokenizer."""
    if fields["tokenizer.ggml.model"] != "gpt2" or fields.get("tokenizer.ggml.pre") not in ("smollm", "gpt-2", "default"):
        raise SystemExit(f"tokenizer {fields['tokenizer.ggml.model']}/{fields.get('tokenizer.ggml.pre')} is not handled here")
    tokens = fields["tokenizer.ggml.tokens"]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"]]))
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if fields["tokenizer.ggml.pre"] == "smollm":
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Sequence(steps), decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, fields["tokenizer.ggml.token_type"]) if kind == int(gguf.TokenType.CONTROL)]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    name = lambda key: tokens[fields[f"tokenizer.ggml.{key}_token_id"]] if f"tokenizer.ggml.{key}_token_id" in fields else None
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=name("bos"), eos_token=name("eos"), pad_token=name("padding"), unk_token=name("unknown"),
                                   clean_up_tokenization_spaces=False, model_max_length=fields["llama.context_length"])
    fast.chat_template = fields.get("tokenizer.chat_template")
    return fast


def convert(source, out):
    source, out = pathlib.Path(source), pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    fields = metadata(source)
    tokenizer_from_gguf(fields).save_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    state = {k: v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight" or not model.config.tie_word_embeddings}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    config["architectures"] = ["LlamaForCausalLM"]
    (out / "config.json").write_text(json.dumps(config, indent=2, default=str) + "\n")


def add_score_head(source, out):
    """PPO's benchmark needs a reward model that both sides load; what it likes does not matter."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reward", action="store_true", help="SOURCE is a directory; write it with a score head")
    parser.add_argument("source")
    parser.add_argument("out")
    arguments = parser.parse_args()
    (add_score_head if arguments.reward else convert)(arguments.source, arguments.out)
