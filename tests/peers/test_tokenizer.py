"""`hone tokenize` against Hugging Face's tokenizers library, on strings made to be awkward."""
import random

import pytest
from conftest import GOLDEN, filter_rows
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

COUNT = 2000
PIECES = [
    "hello", "World", " the", "I'm", "we'LL", "don't", "'s", "  ", "\n", "\r\n", "\t", " \n ", "\n\n\n", "3", "1234567890", "12.50", "½", "٣٤", "²", "Ⅷ",
    "naïve", "Straße", "Привет", "мир", "你好", "世界", "日本語", "한국어", "العربية", "עברית", "हिन्दी", "ไทย", "👍", "👩‍👩‍👧", "🇩🇪", "e\u0301", "\u00a0", "\u3000", "\u2028",
    "\u200b", "\ufeff", "...", "!?", "==", "->", "{{", "}}", "<|", "|>", "_", "__init__", "http://a.b/c?d=e", "#", "\\", "\"", "'", "`", "`", "ﬁ", "\u0130", "\u1e9e",
]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]


def any_character(draw):
    """A character of any plane, weighted towards where text is; no surrogates, no NUL."""
    top = draw.choice([0x7F, 0xFF, 0x7FF, 0xFFFF, 0x10FFFF])
    while True:
        code = draw.randint(1, top)
        if not 0xD800 <= code <= 0xDFFF:
            return chr(code)


def fuzz(seed, special):
    draw, texts = random.Random(seed), ["", " ", "\n", "  \n", " a", "a "]
    while len(texts) < COUNT:
        parts = []
        for _ in range(draw.randint(1, 12)):
            kind = draw.random()
            parts.append(draw.choice(PIECES) if kind < 0.7 else any_character(draw) if kind < 0.9 else " " * draw.randint(1, 5))
        if special:
            parts.insert(draw.randint(0, len(parts)), draw.choice(SPECIAL))
        texts.append("".join(parts))
    return texts


def split_writable(tokenizer, texts):
    """(texts of which the vocabulary has every byte, the others). Hugging Face drops missing bytes without a word; hone refuses the row."""
    bytes_known = {token for token in tokenizer.get_vocab() if len(token) == 1}
    to_symbols, parts = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), ([], [])
    for text in texts:
        symbols = {symbol for piece, _ in to_symbols.pre_tokenize_str(text) for symbol in piece}
        parts[not symbols <= bytes_known].append(text)
    return parts


def compare(tokenizer, model, texts, *flags):
    given = filter_rows("tokenize", model, [{"text": t} for t in texts], *flags)
    wrong = [(t, g.get("ids"), w) for t, g in zip(texts, given) if g.get("ids") != (w := tokenizer.encode(t, add_special_tokens=False))]
    assert not wrong, f"{len(wrong)} of {len(texts)} strings differ; the first: {wrong[0]!r}"
    back = filter_rows("tokenize", model, [{"ids": g["ids"]} for g in given])
    for text, row in zip(texts, back):
        assert row["text"] == text


@pytest.mark.parametrize("special", [False, True], ids=["plain", "special_tokens_inside"])
def test_smollm2_ids(default_model, smollm2_tokenizer, special):
    texts, _ = split_writable(smollm2_tokenizer, fuzz(11 + special, special))
    assert len(texts) > COUNT // 2
    compare(smollm2_tokenizer, default_model, texts)


def test_smollm2_refuses_bytes_outside_its_vocabulary(default_model, smollm2_tokenizer):
    texts = split_writable(smollm2_tokenizer, fuzz(13, False))[1][:100]
    assert len(texts) == 100
    for text, row in zip(texts, filter_rows("tokenize", default_model, [{"text": t} for t in texts], exit_code=2)):
        assert "error" in row and "ids" not in row, (text, row)


def test_no_special_reads_special_strings_as_text(default_model, smollm2_tokenizer):
    texts, _ = split_writable(smollm2_tokenizer, fuzz(14, True)[:300])
    backend = smollm2_tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    try:
        wanted = [backend.encode(t, add_special_tokens=False).ids for t in texts]
    finally:
        backend.encode_special_tokens = False
    given = filter_rows("tokenize", default_model, [{"text": t} for t in texts], "--no_special")
    for text, row, ids in zip(texts, given, wanted):
        assert row["ids"] == ids, text


@pytest.mark.parametrize("model", ["models/chat", "gguf/mixed.gguf"])
def test_tokenizer_json_and_gguf_vocabulary(model):
    """The same small tokenizer as tokenizer.json and as GGUF metadata; every byte is in its vocabulary."""
    compare(AutoTokenizer.from_pretrained(GOLDEN / "models" / "chat"), GOLDEN / model, fuzz(15, True))
