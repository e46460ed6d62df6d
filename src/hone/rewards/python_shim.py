"""Runs a reward function written for TRL's trainers: python3 -c SHIM FILE FUNCTION.

One JSON line a request on standard input: {"id", "prompts", "completions", "completion_ids", "columns": {name: list}}; one JSON line an answer:
{"id", "rewards": [number | null, ...]} or {"id", "error": text}. The first line, before any request, is {"ready": true} or {"error": text}.
What the function prints goes to standard error.
"""
import asyncio
import importlib.util
import inspect
import json
import math
import os
import sys
import traceback
import types

requests = os.fdopen(os.dup(0), "r", encoding="utf-8", newline="\n")
answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
os.dup2(2, 1)
nothing = os.open(os.devnull, os.O_RDONLY)
os.dup2(nothing, 0)
os.close(nothing)
sys.stdout = sys.stderr


def answer(message):
    answers.write(json.dumps(message, allow_nan=False) + "\n")
    answers.flush()


def last_line(error):
    return (traceback.format_exception_only(type(error), error)[-1].strip() or type(error).__name__)[:500]


def load_function(path, name):
    folder = os.path.dirname(os.path.abspath(path))
    sys.path.insert(0, folder)
    module_name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None:
        raise ImportError(path + " is no Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if function is None:
        known = [key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module_name]
        raise AttributeError("%s has no function %s; it has %s" % (path, name, ", ".join(known) or "none"))
    if not callable(function):
        raise TypeError("%s of %s cannot be called" % (name, path))
    return function


def arguments_for(function, offered):
    """All that is offered, or only what a function without **kwargs takes."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return offered
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return offered
    wanted = {parameter.name for parameter in parameters}
    return {name: value for name, value in offered.items() if name in wanted}


def number_of(value):
    """A reward as JSON writes it: None stays None; what is no number, and what JSON has no word for, is said in a text."""
    if value is None:
        return None
    if hasattr(value, "item"):  # a number of numpy's or torch's
        value = value.item()
    if not isinstance(value, (int, float)):
        return "a reward is %s, wanted a number or None" % type(value).__name__
    value = float(value)
    return value if math.isfinite(value) else "a reward is %r" % value


def rewards_of(values, count):
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, (list, tuple)):
        raise TypeError("the function returned %s, wanted a list of numbers" % type(values).__name__)
    if len(values) != count:
        raise ValueError("the function returned %d rewards for %d completions" % (len(values), count))
    return [number_of(value) for value in values]


def serve(function):
    for line in requests:
        request = json.loads(line)
        offered = dict(request["columns"])
        offered["trainer_state"] = types.SimpleNamespace(global_step=request["step"])
        offered["log_extra"] = offered["log_metric"] = lambda *ignored: None
        for name in ("prompts", "completions", "completion_ids"):
            offered[name] = request[name]
        try:
            values = function(**arguments_for(function, offered))
            if inspect.isawaitable(values):
                values = asyncio.run(as_coroutine(values))
            answer({"id": request["id"], "rewards": rewards_of(values, len(request["completions"]))})
        except Exception as error:
            traceback.print_exc()
            answer({"id": request["id"], "error": last_line(error)})


async def as_coroutine(awaitable):
    return await awaitable


def main():
    try:
        function = load_function(sys.argv[1], sys.argv[2])
    except BaseException as error:
        traceback.print_exc()
        answer({"error": last_line(error)})
        return
    answer({"ready": True})
    serve(function)


main()
