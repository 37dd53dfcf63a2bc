"""Reading a rule's source: rules are data to the planner and to code generation."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from functools import cache
from typing import Any

from fallline.core.errors import RuleError


def parse(function: Callable) -> ast.FunctionDef:
    """Return the syntax tree of ``function``, without its decorators."""
    if function.__name__ == "<lambda>":
        raise RuleError("a lambda cannot be read as a formula; write it with def")
    try:
        text = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError) as error:
        raise RuleError(
            f"the source of {function.__name__} cannot be read; define it in a file or a notebook cell"
        ) from error
    tree = next(n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef))
    tree.decorator_list = []
    return tree


#: The same, of functions that live as long as the process.
definition = cache(parse)


def constants(function: Callable[..., Any]) -> dict[str, Any]:
    """Return what a function reads of the function around it."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells}


def text(function: Callable) -> str:
    """Return the source of ``function`` as written, dedented, with its decorators."""
    return textwrap.dedent(inspect.getsource(function))


def statements(function: Callable) -> list[ast.stmt]:
    """Return the body of ``function`` without its docstring; raise RuleError unless it is straight-line."""
    tree = definition(function)
    body = tree.body[1:] if ast.get_docstring(tree) else tree.body
    for line in body[:-1]:
        if not isinstance(line, ast.Assign):
            raise RuleError(
                f"{function.__name__}, line {line.lineno}: a rule is assignments and one return; "
                f"write where(condition, a, b) instead of if, and name every value"
            )
    if not body or not isinstance(body[-1], ast.Return) or body[-1].value is None:
        raise RuleError(f"{function.__name__} must end with a return of its values")
    return body


def returned(function: Callable) -> list[ast.expr]:
    """Return the expressions a rule returns, in order."""
    value = statements(function)[-1].value  # type: ignore[attr-defined]
    return list(value.elts) if isinstance(value, ast.Tuple) else [value]


def returned_names(function: Callable) -> tuple[str, ...]:
    """Return the names in a per-tensor function's ``return dict(name=...)``."""
    (call,) = returned(function)
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "dict"):
        raise RuleError(f"{function.__name__} must end with return dict(name=value, ...)")
    return tuple(str(k.arg) for k in call.keywords)
