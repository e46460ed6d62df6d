"""Reward functions with TRL's signature, for --reward python:examples/reward/rewards.py:brevity."""


def brevity(completions, **columns):
    """1 for a short completion, falling to 0 at 400 characters."""
    return [max(0.0, 1.0 - len(text_of(one)) / 400) for one in completions]


def holds_answer(completions, answer, **columns):
    """1 where the row's answer stands in the completion; not judged (None) where the row has none."""
    return [None if gold is None else float(str(gold) in text_of(one)) for one, gold in zip(completions, answer)]


def text_of(completion):
    """A completion is a text, or a list of messages where the prompt is one."""
    return completion if isinstance(completion, str) else completion[-1]["content"]
