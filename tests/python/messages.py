"""Every error message of the library and of its Python package, read from their sources.

What varies in a message is "…" here. A message that is only another error's words is none of its own. Anything that looks
like a message and cannot be read is an error, so that none gets lost.
"""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
VARIES = "…"
STRING = r'"((?:[^"\\]|\\.)*)"'

# A variable that holds words of somewhere else: ONNX Runtime's own, or those that `Error` was given.
FOREIGN = {("src/error.rs", "text"), ("src/error.rs", "message")}


def in_rust():
    """(message, where) of the library: `fail!`, errors that are made of a kind and words, and texts for ONNX Runtime."""
    for path in sorted((ROOT / "src").rglob("*.rs")):
        name = path.relative_to(ROOT).as_posix()
        if "tests" in path.stem:
            continue
        text = path.read_text().split("#[cfg(test)]")[0]
        text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//"))
        calls = [re.finditer(r"\bfail!\(\s*\w+,\s*", text)]
        calls.append(re.finditer(r"\b[\w:]+\(\s*ErrorKind::\w+,\s*", text))
        calls.append(re.finditer(r"\bError::new\(\s*(?!ErrorKind)[^,$]+,\s*", text))
        for call in (call for kind in calls for call in kind):
            words, before = text[call.end() :], text[: call.start()]
            variable = re.match(r"(\w+)\s*\)", words)
            if variable and (name, variable[1]) in FOREIGN:
                continue
            if variable:
                # The nearest text of that name.
                words = before[before.rfind(f"let {variable[1]} = ") :].partition(" = ")[2]
            literal = re.match(rf"(?:format(?:_args)?!\(\s*)?{STRING}", words)
            if not literal:
                raise ValueError(f"{name}: what is the message of {text[call.start() :][:80]!r}?")
            yield _of_rust(literal[1]), name
        for literal in re.findall(r'\bc"(\w+: [^"]+)"', text):
            yield _of_rust(literal), name


def _of_rust(literal):
    literal = re.sub(r"\\\n\s*", "", literal)
    return re.sub(r"\{[^{}]*\}", VARIES, literal).replace('\\"', '"')


def in_cpp():
    """(message, where) of the C++ header's own checks."""
    path = ROOT / "include" / "focal_loss.hpp"
    for thrown in re.findall(r"throw \w+\(([^;]*)\);", path.read_text(), re.DOTALL):
        parts = re.findall(STRING, thrown)
        if parts:
            yield VARIES.join(parts) + ("" if thrown.rstrip().endswith('"') else VARIES), path.name


def in_python():
    """(message, where) of the Python package."""
    for path in sorted((ROOT / "onnx" / "src" / "focal_loss_onnx").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text())
        functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        variables = {
            ast.unparse(node.targets[0]): node.value for node in ast.walk(tree) if isinstance(node, ast.Assign)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                said = node.exc
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("_fail", "warnings.warn"):
                said = node
            else:
                continue
            node = said.args[0] if said.args else None
            if isinstance(node, ast.Name):
                node = variables.get(node.id, node)
            for message in _of_python(node, functions, f"{name}:{said.lineno}"):
                yield message, name


def _of_python(node, functions, where):
    if isinstance(node, ast.Constant) and node.value is None:
        return []
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return ["".join(part.value if isinstance(part, ast.Constant) else VARIES for part in node.values)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
        returns = [n.value for n in ast.walk(functions[node.func.id]) if isinstance(n, ast.Return)]
        return [message for value in returns for message in _of_python(value, functions, where)]
    # Another error's words, or the library's.
    if isinstance(node, ast.Call) and ast.unparse(node) in ("str(error)", "library.focal_loss_last_error_message().decode()"):
        return []
    raise ValueError(f"{where}: what is the message of {ast.unparse(node) if node else 'nothing'}?")


def every():
    """Where each message is, by message."""
    found = {}
    for message, where in (*in_rust(), *in_cpp(), *in_python()):
        # On a line of a table. What is nothing but another's words is none of ours.
        if message != VARIES:
            found.setdefault(" ".join(message.split()), set()).add(where)
    return found


if __name__ == "__main__":
    for message, where in every().items():
        print(f"{message}    [{', '.join(sorted(where))}]")
