#!/usr/bin/env python3
"""Refuses documents that no longer tell the truth: commands, flags, links and folders they name must exist.

usage: check_docs.py [ROOT]

Reads README.md, CONTRIBUTING.md, examples/*.md and docs/*.md:
  `make TARGET` and make lines in code blocks: a target of the Makefile;   [text](path): a file or folder;
  `hone COMMAND --flag` lines in ```sh blocks: a command and its flags of docs/options.md (made from the program's own table);
  lines `path/   words` of the ```tree block of README.md: a path, and every folder of the top level stands there.
"""
import pathlib
import re
import shlex
import sys

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def make_targets(root):
    return set(re.findall(r"^([a-z][\w-]*):(?!=)", (root / "Makefile").read_text(), re.MULTILINE))


def options_of(root):
    """command -> its flags, from docs/options.md."""
    table = {}
    command = None
    for line in (root / "docs" / "options.md").read_text().splitlines():
        if line.startswith("## hone "):
            command = line.split()[2]
            table[command] = {"help", "help_all", "config"}
        elif line.startswith("| `--"):
            table[command] |= {name.strip().lstrip("-") for name in line.split("`")[1].split(",")}
    return table


def check_command(words, targets, options):
    """What is wrong with one command line of a document."""
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    if words[:1] == ["make"]:
        return [f"make {w}: no such target" for w in words[1:] if "=" not in w and not w.startswith("-") and w not in targets]
    if words and pathlib.PurePath(words[0]).name == "hone" and len(words) > 1 and not words[1].startswith("-"):
        if words[1] not in options:
            return [f"hone {words[1]}: no such command"]
        flags = [w[2:].split("=")[0].replace("-", "_") for w in words[2:] if w.startswith("--")]
        return [f"hone {words[1]} --{f}: no such flag" for f in flags if f not in options[words[1]]]
    return []


def check_tree(root, text):
    named = set()
    for line in text.splitlines():
        path = line.split()[0] if line.strip() else ""
        if path:
            named.add(path.split("/")[0])
            if not (root / path).exists():
                yield f"tree: {path} does not exist"
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and not folder.name.startswith(".") and not re.match(r"build|models$|runs$", folder.name) and folder.name not in named:
            yield f"tree: {folder.name}/ is not listed"


def check_page(root, path, targets, options):
    text = path.read_text()
    for language, body in FENCE.findall(text):
        if language == "tree":
            yield from check_tree(root, body)
        if language not in ("sh", "bash"):
            continue
        for line in body.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s(?:\||&&|;)\s", line.split(" # ")[0]):
                yield from check_command(shlex.split(part, comments=True), targets, options)
    prose = FENCE.sub("", text)
    for target in re.findall(r"`make ([\w-]+)[^`]*`", prose):
        if target not in targets:
            yield f"make {target}: no such target"
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
        if not re.match(r"\w+:", link) and not (path.parent / link).exists():
            yield f"link to {link}: no such file"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent.parent)
    targets, options = make_targets(root), options_of(root)
    pages = [root / "README.md", root / "CONTRIBUTING.md", *sorted(root.glob("examples/*.md")), *sorted(root.glob("docs/*.md"))]
    faults = [f"{page.relative_to(root)}: {text}" for page in pages for text in check_page(root, page, targets, options)]
    print("\n".join(faults) if faults else f"check_docs: {len(pages)} pages, every command, flag, link and folder exists")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
