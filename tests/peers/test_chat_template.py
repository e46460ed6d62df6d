"""`hone inspect` on generated conversations against apply_chat_template (jinja2 with trim_blocks and lstrip_blocks)."""
import random

import pytest
from conftest import GOLDEN, filter_rows
from make_trl_sft import tokenize
from transformers import AutoTokenizer

COUNT = 300
WORDS = ("how many apples are left 12 7 and 3.5 naïve Straße привет 你好 👍 {{ user }} {% if x %} {# no #} </s> <b> & \" ' \\n \\ ; : - don't we'll = ==").split(" ")
LAYOUT = ["", " ", "\n", "  \n", "\t", "\n\n"]


def sentence(draw, edges):
    text = draw.choice([" ", "\n", "  "]).join(draw.choice(WORDS) for _ in range(draw.randint(1, 12)))
    return draw.choice(LAYOUT) + text + draw.choice(LAYOUT) if edges else text


def conversations(seed):
    """User and system texts may begin and end with white space; an assistant's text may not, since a token could then reach over its edge."""
    draw = random.Random(seed)
    for _ in range(COUNT):
        messages = [{"role": "system", "content": sentence(draw, True)}] if draw.random() < 0.4 else []
        for _ in range(draw.randint(1, 4)):
            messages.append({"role": "user", "content": sentence(draw, True)})
            messages.append({"role": "assistant", "content": sentence(draw, False)})
        yield messages


@pytest.fixture(scope="module", params=["default model", "models/chat", "gguf/mixed.gguf"])
def model_and_tokenizer(request):
    if request.param == "default model":
        return request.getfixturevalue("default_model"), request.getfixturevalue("smollm2_tokenizer")
    return GOLDEN / request.param, AutoTokenizer.from_pretrained(GOLDEN / "models" / "chat")


def test_training_rows(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    talks = list(conversations(21))
    given = filter_rows("inspect", model, [{"messages": m} for m in talks], "--format", "jsonl")
    for messages, row in zip(talks, given):
        wanted = tokenize(tokenizer, messages)
        assert row["text"] == tokenizer.apply_chat_template(messages, tokenize=False)
        assert row["ids"] == wanted["input_ids"]
        assert row["weights"] == [float(label >= 0) for label in wanted["labels"]], messages
        assert len(row["roles"]) == len(row["ids"])


def test_prompts(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    talks = [messages[:-1] for messages in conversations(22)]
    given = filter_rows("inspect", model, [{"messages": m, "add_generation_prompt": True} for m in talks], "--format", "jsonl")
    for messages, row in zip(talks, given):
        assert row["text"] == tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert row["ids"] == tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
