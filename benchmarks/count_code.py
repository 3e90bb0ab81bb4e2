"""Count files, code lines, public names, `Any` in annotations and private Keras names.

    python benchmarks/count_code.py [folder of a checkout]

Code lines are without blank lines, comments and docstrings. `pytest --collect-only` counts the test cases.
"""

import ast
import io
import re
import sys
import tokenize
from pathlib import Path

NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(text):
    """Number of lines that hold code."""
    documented = (ast.Module, ast.FunctionDef, ast.ClassDef)
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def annotated_arguments(text):
    """Annotations of all arguments of functions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            for argument in arguments:
                if argument.annotation is not None:
                    yield ast.unparse(argument.annotation)


def public_names(package):
    """Names that the `__all__` of packages list, each once."""
    names = set()
    for file in package.rglob("__init__.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                names |= set(ast.literal_eval(node.value))
    return names


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1])
    package, tests = root / "keras_ssl", root / "tests"
    modules = [file.read_text() for file in sorted(package.rglob("*.py"))]
    annotations = [found for text in modules for found in annotated_arguments(text)]
    print(f"files in keras_ssl/: {len(modules)}")
    print(f"code lines in keras_ssl/: {sum(map(code_lines, modules))}")
    print(f"code lines in tests/: {sum(code_lines(file.read_text()) for file in tests.rglob('*.py'))}")
    print(f"public names: {len(public_names(package))}")
    of_any = sum(re.search(r"\bAny\b", found) is not None for found in annotations)
    print(f"annotated arguments with Any: {of_any} of {len(annotations)}")


if __name__ == "__main__":
    main()
