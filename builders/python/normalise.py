"""Copies a source tree so that only what matters to the program is left of its Python files.

Comments and formatting go, so a change of them alone gives the same bytes, and everything that was computed with the old
bytes is still valid. Docstrings stay: a program can read them. A file whose meaning would change, or that
is not valid Python, is copied as it is. QUERN_PYTHON_VERBATIM=1 copies everything as it is.
"""

import ast
import os
import shutil
import sys

# Read by the build alone; the program does not get them.
ONLY_FOR_BUILD = {"requirements.txt", ".pachignore", "wheels"}


def normalised(code):
    """The code without comments and formatting, or None if it must stay as it is."""
    tree = ast.parse(code)
    text = ast.unparse(tree)
    if ast.dump(ast.parse(text)) != ast.dump(tree):
        return None
    first_line = code.split(b"\n", 1)[0]
    start = first_line.decode() + "\n" if first_line.startswith(b"#!") else ""
    return (start + text + "\n").encode()


def copy_code(source, target):
    with open(source, "rb") as file:
        code = file.read()
    try:
        result = normalised(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        result = None
    with open(target, "wb") as file:
        file.write(code if result is None else result)
    shutil.copymode(source, target)


def copy_tree(source, target, verbatim, is_top):
    os.mkdir(target)
    for name in sorted(os.listdir(source)):
        if is_top and name in ONLY_FOR_BUILD:
            continue
        old, new = os.path.join(source, name), os.path.join(target, name)
        if os.path.islink(old):
            os.symlink(os.readlink(old), new)
        elif os.path.isdir(old):
            copy_tree(old, new, verbatim, False)
        elif name.endswith(".py") and not verbatim:
            copy_code(old, new)
        else:
            shutil.copy(old, new)


def check_program(path):
    """A program that cannot start should fail here, once, and not for each datum."""
    with open(path, "rb") as file:
        code = file.read()
    try:
        compile(code, "main.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        sys.exit(f"build.sh: main.py is not valid for Python {sys.version.split()[0]}: {error}")
    except ValueError as error:
        sys.exit(f"build.sh: main.py cannot be read: {error}")


def main(source, target):
    verbatim = os.environ.get("QUERN_PYTHON_VERBATIM", "") not in ("", "0")
    if not hasattr(ast, "unparse"):
        print("build.sh: Python before 3.9 cannot normalise code; it is copied as it is", file=sys.stderr)
        verbatim = True
    check_program(os.path.join(source, "main.py"))
    copy_tree(source, target, verbatim, True)


if __name__ == "__main__":
    main(*sys.argv[1:])
