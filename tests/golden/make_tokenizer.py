"""Makes tests/golden/tokenizer/: two tiny byte-level BPE vocabularies and what Hugging Face `tokenizers` makes of fuzz strings with them,
and jinja.jsonl: templates rendered by jinja2 as transformers sets it up.

    python tests/golden/make_tokenizer.py

The vocabularies are trained on the text below, so everything is a function of this file and of the library versions.
"""

import json
import random
from pathlib import Path

import jinja2.ext
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

OUT = Path(__file__).parent / "tokenizer"
CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's what they'd do, isn't it? We'll see, I'm sure they've been there.",
    "def add(a, b):\n    return a + b\n\n\nprint(add(12, 345))  # 357\n",
    "Die Straße ist naß; l'été à Noël, señor, привет мир, 你好世界, こんにちは. Ελληνικά 🙂🙃 \u00a0x\u2003y",
    "1,234.56 + 7 = 1241.56; ½ of Ⅻ is ٣٤; x² + y³",
] * 3


def build(name, digits):
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]) if digits else byte_level
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=520,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if digits:
        tokenizer.add_tokens(
            [
                AddedToken("<left>", lstrip=True, normalized=False),
                AddedToken("<right>", rstrip=True, normalized=False),
                AddedToken("word", single_word=True, normalized=False),
                AddedToken("<|im_start|>x", normalized=False),
                AddedToken("late", normalized=True),
            ]
        )
        tokenizer.add_special_tokens([AddedToken("<both>", lstrip=True, rstrip=True, normalized=False)])
    tokenizer.save(str(OUT / f"{name}.json"), pretty=False)
    return tokenizer


def fuzz(rng, count):
    pieces = (
        [" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u2003", "\u3000", "\x1c", "\x85"]
        + ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'", "''", "'S", "'x", "\u2019s"]
        + ["a", "The", "quick", "straße", "é", "e\u0301", "привет", "你好", "こ", "🙂", "👩\u200d👩", "\u0300", "ǅ", "ª"]
        + ["0", "7", "12", "345", "½", "Ⅻ", "٣", "²", "१२"]
        + [".", ",", "!?", "(", "#", "_", "--", "$", "\x00", "\x7f", "\ufeff", "\ufffd", "\U0010ffff"]
        + ["<|endoftext|>", "<|im_start|>", "<|im_start|>x", "<|im_end|>", "<|im_end", "<left>", "<right>", "<both>", "word", "late", "sword", "wordy"]
    )
    for _ in range(count):
        yield "".join(rng.choice(pieces) for _ in range(rng.randint(1, 14)))


TEMPLATES = [
    "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {{ m.role|upper }}: {{ m['content']|trim }}\n{% endfor %}",
    "{%- for m in messages -%}\n  {{- m.content }}\n  {%- if not loop.last %}, {% endif -%}\n{%- endfor %}\n",
    "  {% if messages[0].role == 'system' %}\n  S\n  {% elif messages|length > 2 %}\n    many\n  {% else %}\n few\n  {% endif %}\nend\n\n",
    "{% set ns = namespace(n=0, last='') %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.n = ns.n + 1 %}{% set ns.last = m.content %}{% endif %}{% endfor %}{{ ns.n }}{{ ns.last }}",
    "{% set x = 1 %}{% for m in messages %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}",
    "{{ messages[-1].content[1:-1] }}|{{ messages[-1].content[::-1] }}|{{ messages[1:]|length }}|{{ messages[-1]['content'][-1] }}|{{ 'abc'[5:] }}",
    "{{ messages|tojson }}\n{{ messages[0]|tojson(indent=2) }}{{ {'a': [1, 2.5, true, none, 'q\"\\n']}|tojson }}",
    "{{ messages[0].content.split(' ')[0] }}-{{ 'a,b,c'.split(',', 1)[1] }}-{{ ' x  y '.split()|join('+') }}",
    "{{ 'x' if tools is defined and tools else 'y' }}{{ tools is not defined }}{{ missing }}{{ missing|default('d') }}{{ ''|default('e', true) }}{{ none is none }}",
    "{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 * 3.5 }} {{ 1 + 2 * 3 - 4 }} {{ 1 < 2 < 3 }} {{ 'a' in 'cat' }} {{ 'b' not in ['a'] }}",
    "{{ not false and true or false }} {{ 1 == 1.0 }} {{ 'a' ~ 'b' + 'c' }} {{ -3|string + 'x' }} {{ ('A' + 'b')|lower }} {{ 'hello world'.title() }}",
    "{# comment #}\n{% if true %}a{% endif %}\n  {#- c -#}\n b {%+ if true %} c{% endif +%}\nd",
    "{{ '\\u00e9\\x41\\t' }}{{ \"it's\" 'ok' }}{{ 'a'.startswith('a') }}{{ 'abc'.endswith(('b', 'c')) }}{{ 'aXbX'.replace('X', 'yy') }}{{ 'xxaxx'.strip('x') }}",
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}{% for i in range(3) %}{{ i }}{% endfor %}{% for i in [] %}x{% else %}none{% endfor %}",
    "{% for m in messages if m.role != 'system' %}{{ loop.index }}{{ m.content }}{% if loop.index == 2 %}{% break %}{% endif %}{% endfor %}",
    "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.role[0] }}{% endfor %}{% set t %}in{{ 1 }}{% endset %}{{ t|length }}{{ t }}",
    "{% generation %}{{ messages[0].content }}{% endgeneration %}{{ bos_token }}{{ messages|first is mapping }}{{ (messages|last).role is string }}{{ messages is iterable }}",
    "{{ [1, 2] + [3] == [1, 2, 3] }}{{ [1, [2]] | length }}{{ (1, 2)[1] }}{{ {'x': {'y': 5}}.x.y }}{{ 5 is odd }}{{ 3 is divisibleby 3 }}{{ 'é½'|length }}",
    "a\r\nb\rc{{ 1 }}\n{{- 2 -}}\n x {{ messages[0].content|capitalize }} {{ 'ÉA'|lower }}{{ '12'|int + 1 }}{{ 1.0 }}{{ 0.1 }}",
]

CONVERSATIONS = [
    [{"role": "user", "content": " Hi there é "}],
    [{"role": "system", "content": "S"}, {"role": "user", "content": "abc"}, {"role": "assistant", "content": "x\ny\"\\\t"}, {"role": "user", "content": "zß🙂w"}],
]


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def main():
    OUT.mkdir(exist_ok=True)
    rng = random.Random(7)
    for name, digits in (("plain", False), ("flags", True)):
        tokenizer = build(name, digits)
        with open(OUT / f"{name}.jsonl", "w", encoding="utf-8") as out:
            for text in [*CORPUS[:4], *fuzz(rng, 250)]:
                ids = tokenizer.encode(text).ids
                row = {"text": text, "ids": ids}
                tokenizer.encode_special_tokens = True
                plain = tokenizer.encode(text).ids
                tokenizer.encode_special_tokens = False
                if plain != ids:
                    row["ids_no_special"] = plain
                row["decoded"] = tokenizer.decode(ids, skip_special_tokens=True)
                out.write(json.dumps(row) + "\n")
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
    with open(OUT / "jinja.jsonl", "w", encoding="utf-8") as out:
        for source in TEMPLATES:
            for messages in CONVERSATIONS:
                text = environment.from_string(source).render(messages=messages, add_generation_prompt=False, bos_token="<s>")
                out.write(json.dumps({"template": source, "messages": messages, "text": text}) + "\n")
    print(f"tokenizers {tokenizers.__version__}, jinja2 {jinja2.__version__}")


if __name__ == "__main__":
    main()
