"""Opens a model folder that hone saved as transformers does, and checks that nothing is lost:
    python tests/peers/check_export.py FOLDER [--gguf FILE] [--like FOLDER]
Every key is used and none is missing, the values in the file are those of the model, the tokenizer loads with its template and end token.
--gguf: the weights equal what transformers itself reads from this GGUF file. --like: tokenizer and template agree with another folder's.
Exit status 1 and one line per fault; 0 and a summary otherwise."""
import argparse
import glob
import json
import os
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

TEXTS = ["Hello world", "  two  spaces\n\tand 12345 digits", "<|im_start|>user\nHi<|im_end|>\n", "caf\u00e9 \u4f60\u597d"]
MESSAGES = [{"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "4"}]
faults = []


def expect(condition, text):
    if not condition:
        faults.append(text)


def same(a, b):
    """Equal values; NaN anywhere is a difference."""
    return a.shape == b.shape and bool((a == b).all())


def check_weights(folder, gguf):
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        expect(not info[kind], f"{kind}: {sorted(info[kind])[:3]}")
    config = json.load(open(os.path.join(folder, "config.json")))
    expect(str(model.dtype) == "torch." + config["torch_dtype"] and config["dtype"] == config["torch_dtype"], f"dtype {model.dtype}")
    expect(config["rope_parameters"]["rope_theta"] == config["rope_theta"], "rope_theta differs between the two forms")
    expect(model.config.rope_parameters["rope_theta"] == config["rope_theta"], "transformers read another rope_theta")
    stored = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.safetensors"))):
        stored.update(load_file(path))
    state = model.state_dict()
    expect(set(state) - set(stored) <= ({"lm_head.weight"} if config["tie_word_embeddings"] else set()), "tensors that are not in the files")
    for name, tensor in stored.items():
        expect(name in state and same(state[name], tensor), f"{name} differs from the file")
    if gguf:
        folder_of, file = os.path.split(os.path.abspath(gguf))
        other = AutoModelForCausalLM.from_pretrained(folder_of, gguf_file=file, dtype=torch.float32).state_dict()
        for name, tensor in stored.items():
            expect(same(other[name].to(tensor.dtype), tensor), f"{name} differs from what transformers reads from {file}")
    with torch.no_grad():
        logits = model.float()(torch.arange(min(8, config["vocab_size"]))[None]).logits
    expect(bool(torch.isfinite(logits).all()), "logits are not finite")
    return len(stored)


def check_tokenizer(folder, like):
    if not os.path.exists(os.path.join(folder, "tokenizer.json")):
        return "no tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    generation = GenerationConfig.from_pretrained(folder)
    ends = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
    expect(tokenizer.eos_token_id in ends, f"the tokenizer ends with {tokenizer.eos_token_id}, generation with {ends}")
    size = AutoConfig.from_pretrained(folder).vocab_size
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        expect(all(0 <= i < size for i in ids), f"ids outside the vocabulary for {text!r}")
        if like:
            expect(ids == AutoTokenizer.from_pretrained(like)(text, add_special_tokens=False)["input_ids"], f"other ids for {text!r}")
    template = os.path.join(folder, "chat_template.jinja")
    if os.path.exists(template):
        expect(tokenizer.chat_template == open(template, newline="").read(), "the tokenizer's template is not chat_template.jinja")
        rendered = tokenizer.apply_chat_template(MESSAGES, tokenize=False)
        expect(MESSAGES[0]["content"] in rendered, "the template does not render the message")
        if like:
            expect(rendered == AutoTokenizer.from_pretrained(like).apply_chat_template(MESSAGES, tokenize=False), "the template renders otherwise")
    return f"tokenizer of {len(tokenizer)} tokens"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--gguf")
    parser.add_argument("--like")
    arguments = parser.parse_args()
    count = check_weights(arguments.folder, arguments.gguf)
    tokenizer = check_tokenizer(arguments.folder, arguments.like)
    for fault in faults:
        print(f"check_export: {arguments.folder}: {fault}", file=sys.stderr)
    if faults:
        sys.exit(1)
    print(f"check_export: {arguments.folder}: {count} tensors and {tokenizer} agree")


if __name__ == "__main__":
    main()
