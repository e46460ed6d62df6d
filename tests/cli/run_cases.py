#!/usr/bin/env python3
"""Runs the cases of text files against the program. Standard library only.

usage: run_cases.py HONE CASES.test [PATTERN]

A case file is a list of blocks apart by blank lines; # begins a comment line.
  write NAME      the block's other lines (with \\xNN and other Python escapes) become that file; the last line has no line end if it ends with \\c
  copy FROM TO    copies a folder ($GOLDEN is tests/golden)    cut FILE N    keeps the first N bytes of a file
  hone WORDS      runs the program in the folder of the files (shell quoting; $GOLDEN is tests/golden); then
    < TEXT        a line of its standard input
    exit N        wanted exit code (default 0)
    out LINE      a line of standard output    err LINE   a line of standard error
Output and messages are compared whole, line by line; {*} in a wanted line stands for anything, a wanted line of ... for any lines. The program's
standard error may never have more than 6 lines on exit 2.
"""
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"


def blocks_of(path):
    """Each block: (line number, lines)."""
    block, start = [], 0
    for number, line in enumerate(path.read_text().split("\n") + [""], 1):
        if line.startswith("#"):
            continue
        if line.strip():
            start = start if block else number
            block.append(line)
        elif block:
            yield start, block
            block = []


def matches(wanted, found):
    pattern = ""
    for line in wanted:
        pattern += r"(?:.*\n)*" if line == "..." else ".*".join(re.escape(part) for part in line.split("{*}")) + r"\n"
    return re.fullmatch(pattern, found) is not None


def write_file(folder, words, lines):
    text = "\n".join(lines) + "\n"
    if text.endswith("\\c\n"):
        text = text[:-3]
    path = folder / words[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("latin-1", "backslashreplace").decode("unicode_escape").encode("latin-1") if text.isascii() else text.encode())


def run_case(hone, folder, first, lines):
    """None, or what differs."""
    wanted = {"out": [], "err": []}
    code, given = 0, ""
    for line in lines:
        key, _, rest = line.strip().partition(" ")
        if key == "<":
            given += rest + "\n"
        elif key == "exit":
            code = int(rest)
        elif key in wanted:
            wanted[key].append(rest)
        else:
            return f"cannot read {line!r}"
    words = [w.replace("$GOLDEN", str(GOLDEN)) for w in shlex.split(first)[1:]]
    done = subprocess.run([hone, *words], cwd=folder, input=given.encode(), capture_output=True, timeout=300, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    out, err = done.stdout.decode(), done.stderr.decode()
    faults = []
    if done.returncode != code:
        faults.append(f"exit {done.returncode}, wanted {code}")
    for name, found in (("out", out), ("err", err)):
        if not matches([w.replace("$GOLDEN", str(GOLDEN)) for w in wanted[name]], found):
            faults.append(f"{name} is\n    " + found.replace("\n", "\n    ")[:3000] + "\n  wanted\n    " + "\n    ".join(wanted[name]))
    if code == 2 and err.count("\n") > 6:
        faults.append("more than 6 lines on standard error")
    return "\n  ".join(faults) or None


def main():
    hone, path = str(pathlib.Path(sys.argv[1]).resolve()), pathlib.Path(sys.argv[2])
    pattern = sys.argv[3] if len(sys.argv) > 3 else ""
    count, failed = 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for number, lines in blocks_of(path):
            words = shlex.split(lines[0])
            if words[0] == "write":
                write_file(folder, words, lines[1:])
            elif words[0] == "copy":
                shutil.copytree(words[1].replace("$GOLDEN", str(GOLDEN)), folder / words[2])
            elif words[0] == "cut":
                os.truncate(folder / words[1], int(words[2]))
            elif words[0] != "hone":
                sys.exit(f"{path}:{number}: a block begins with write, copy, cut or hone")
            elif pattern in lines[0]:
                count += 1
                fault = run_case(hone, folder, lines[0], lines[1:])
                if fault:
                    failed += 1
                    print(f"{path}:{number}: {lines[0]}\n  {fault}")
    print(f"{path.name}: {count} cases, {failed} failed")
    sys.exit(1 if failed or count == 0 else 0)


if __name__ == "__main__":
    main()
