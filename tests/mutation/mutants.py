"""Mutants of a module: its source with one small thing wrong, for tests that must notice it.

Two makers of mutants stand side by side. mutmut's operators are the standard ones, but it makes none in a function
that is decorated, in a class body or at module level, and none that drops `.abs()`, `sign` or a transpose. The ones
below work on the syntax tree of the whole module and make those. What both make counts once.

Left out: annotations, docstrings, `__all__`, and the words of messages in `raise` (their keys and values are
formatted into them, and tests match those).
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
MODULE_LEVEL = "(module)"

OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.Pow: "*",
    ast.FloorDiv: "*",
    ast.BitAnd: "|",
    ast.BitOr: "&",
}
COMPARISONS: dict[type[ast.AST], tuple[str, ...]] = {
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
}
NAMES = {
    "sum": "mean",
    "mean": "sum",
    "amax": "amin",
    "amin": "amax",
    "max": "min",
    "min": "max",
    "any": "all",
    "all": "any",
    "ones": "zeros",
    "zeros": "ones",
    "ones_like": "zeros_like",
    "zeros_like": "ones_like",
}
"""A function or method and the one that it is easily confused with."""

TRANSPOSES = ("T", "mT")
CONSTANTS_KEPT = ("__all__", "__version__")


@dataclass(frozen=True)
class Mutant:
    """A module's source with one change: in which function, and the changed lines before and after, without
    indentation.
    """

    function: str
    before: str
    after: str
    source: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What a listed survivor is recognised by, wherever its lines have moved to."""
        return self.function, self.before, self.after


def of(source: str, standard: bool = True) -> list[Mutant]:
    """All mutants of a module's source, in the order of its lines; with `standard`, those of mutmut among them."""
    sources = list(_own(source))
    if standard:
        from standard import edited  # needs mutmut, which `make test` does without

        sources += edited(source)
    seen = {ast.dump(ast.parse(source))}
    places = spans(source)
    found: list[tuple[int, Mutant]] = []
    for changed in sources:
        try:
            tree = ast.parse(changed)
        except SyntaxError:
            continue
        if (identity := ast.dump(tree)) in seen:
            continue
        seen.add(identity)
        line, before, after = _difference(source, changed)
        found.append((line, Mutant(_function_at(places, line), before, after, changed)))
    return [mutant for _, mutant in sorted(found, key=lambda pair: pair[0])]


def functions(source: str) -> list[str]:
    """The qualified names of all functions and methods that do something, nested ones as part of the outer one."""
    return [name for name, _, _ in spans(source)]


def per_function(source: str, made: list[Mutant]) -> dict[str, int]:
    """How many of the mutants lie in each function, 0 included."""
    counted = Counter(mutant.function for mutant in made)
    return {name: counted[name] for name in functions(source)}


def spans(source: str) -> list[tuple[str, int, int]]:
    """Name, first and last line of every function that has a statement beside its docstring."""
    found = []

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                walk(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, FUNCTION) and any(_does_something(statement) for statement in node.body):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                found.append((prefix + node.name, first, node.end_lineno or first))

    walk(ast.parse(source).body, "")
    return found


def _does_something(statement: ast.stmt) -> bool:
    words = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return not words and not isinstance(statement, ast.Pass)


def _function_at(places: list[tuple[str, int, int]], line: int) -> str:
    return next((name for name, first, last in places if first <= line <= last), MODULE_LEVEL)


def _difference(source: str, changed: str) -> tuple[int, str, str]:
    """The number of the first changed line, and the changed lines of both, each joined into one."""
    old, new = source.splitlines(), changed.splitlines()
    shorter = min(len(old), len(new))
    first = next((k for k in range(shorter) if old[k] != new[k]), shorter)
    behind = next((k for k in range(shorter - first) if old[-1 - k] != new[-1 - k]), shorter - first)
    before, after = old[first : len(old) - behind], new[first : len(new) - behind]
    return first + 1, " ".join(line.strip() for line in before), " ".join(line.strip() for line in after)


# Our own -------------------------------------------------------------------------------------------------------------


def _own(source: str) -> Iterator[str]:
    """The source once for every edit of `_Edits`; each replaces one stretch of the text."""
    tree = ast.parse(source)
    edits = _Edits(tree)
    edits.visit(tree)
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    text = source.encode()
    for node, replacement in edits.found:
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        yield (text[:start] + replacement.encode() + text[end:]).decode()


class _Edits(ast.NodeVisitor):
    """Collects (node, new text). An expression is put into parentheses, so that it stays one."""

    def __init__(self, tree: ast.Module) -> None:
        self.found: list[tuple[ast.expr | ast.stmt, str]] = []
        self.modules = {
            alias.asname or alias.name.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
            if isinstance(node, ast.Import) or alias.name[:1].islower()
        }

    def put(self, node: ast.expr | ast.stmt, new: ast.AST | str) -> None:
        self.found.append((node, new if isinstance(new, str) else ast.unparse(new)))

    def put_expression(self, node: ast.expr, new: ast.AST | str) -> None:
        text = new if isinstance(new, str) else ast.unparse(new)
        self.put(node, text if isinstance(new, ast.Name | ast.Constant) else f"({text})")

    # Left out

    def visit_Raise(self, node: ast.Raise) -> None:
        self.put(node, "pass")  # its message stays as it is

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_arg(self, node: ast.arg) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):
            self.put(node, "pass")
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        target = node.targets[0]
        if isinstance(target, ast.Name) and target.id in CONSTANTS_KEPT:
            return
        if not isinstance(target, ast.Name) or self._is_type(node):
            if isinstance(target, ast.Name):
                return
            self.put(node, "pass")
        self.visit(node.value)
        for changed in node.targets:
            self.visit(changed)

    @staticmethod
    def _is_type(node: ast.Assign) -> bool:
        """An alias of a type, such as `Weight = Float[Tensor, "out in"]`, is an annotation."""
        words = isinstance(node.value, ast.Subscript | ast.BinOp)
        return node.col_offset == 0 and words

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self.visit(statement)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self.visit(default)
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call):
                self.visit(decorator)
        for statement in node.body:
            self.visit(statement)

    # Statements

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self.put_expression(node.value, "None")
            self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.put(node, "pass")
        if type(node.op) in OPERATORS:
            self.put(node, f"{ast.unparse(node.target)} {OPERATORS[type(node.op)].strip()}= {ast.unparse(node.value)}")
        self.visit(node.value)

    def visit_Continue(self, node: ast.Continue) -> None:
        self.put(node, "pass")
        self.put(node, "break")

    def visit_Break(self, node: ast.Break) -> None:
        self.put(node, "pass")

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            if item.optional_vars is None:
                self.put(item.context_expr, "__import__('contextlib').nullcontext()")
        self.generic_visit(node)

    def visit_Try(self, node: ast.Try) -> None:
        for part in [*node.body, *node.handlers, *node.orelse, *node.finalbody]:
            self.visit(part)

    # Conditions

    def _condition(self, node: ast.expr) -> None:
        for new in ("True", "False"):
            self.put_expression(node, new)

    def visit_If(self, node: ast.If) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.put_expression(test, "True")
            self.put_expression(test, f"not ({ast.unparse(test)})")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        word = " or " if isinstance(node.op, ast.And) else " and "
        self.put_expression(node, word.join(f"({ast.unparse(value)})" for value in node.values))
        for left_out in node.values:
            kept = [value for value in node.values if value is not left_out]
            self.put_expression(node, ast.BoolOp(node.op, kept) if len(kept) > 1 else kept[0])
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self.put_expression(node, node.operand)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for place, operator in enumerate(node.ops):
            for other in COMPARISONS[type(operator)]:
                parts = [f"({ast.unparse(node.left)})"]
                for number, (old, value) in enumerate(zip(node.ops, node.comparators, strict=True)):
                    word = other if number == place else _symbol(old)
                    parts.append(f"{word} ({ast.unparse(value)})")
                self.put_expression(node, " ".join(parts))
        self.generic_visit(node)

    # Expressions

    def visit_BinOp(self, node: ast.BinOp) -> None:
        left, right = f"({ast.unparse(node.left)})", f"({ast.unparse(node.right)})"
        if type(node.op) in OPERATORS:
            self.put_expression(node, f"{left} {OPERATORS[type(node.op)]} {right}")
        self.put_expression(node, left)
        self.put_expression(node, right)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in TRANSPOSES:
            self.put_expression(node, node.value)
        if node.attr == "tiny":
            self.put_expression(node, ast.Attribute(node.value, "eps", ast.Load()))
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load) and node.id == "relu":
            self.put_expression(node, "torch.abs")

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.put(node, str(not value))
        elif isinstance(value, int | float):
            self.put_expression(node, repr(value + 1))
            self.put_expression(node, repr(value - 1))
        elif isinstance(value, str):
            self.put(node, repr(f"XX{value}XX"))

    def visit_Tuple(self, node: ast.Tuple) -> None:
        if isinstance(node.ctx, ast.Load) and len(node.elts) > 1:
            for left_out in node.elts:
                kept = [ast.unparse(element) for element in node.elts if element is not left_out]
                self.put_expression(node, ", ".join(kept) + ("," if len(kept) == 1 else ""))
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)
        for part in node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]:
            self.visit(part)

    def visit_Slice(self, node: ast.Slice) -> None:
        self.put(node, ":")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if name in ("cast", "TypeVar"):
            return
        if name in NAMES and not isinstance(called, ast.Name):
            renamed = ast.Attribute(called.value, NAMES[name], ast.Load())  # type: ignore[attr-defined]
            self.put_expression(node, ast.Call(renamed, node.args, node.keywords))
        elif name in NAMES:
            self.put_expression(node, ast.Call(ast.Name(NAMES[name], ast.Load()), node.args, node.keywords))
        if isinstance(called, ast.Attribute) and not self._is_module(called.value):
            self.put_expression(node, called.value)  # x.abs() -> x
        elif node.args and not isinstance(node.args[0], ast.Starred):
            self.put_expression(node, node.args[0])  # torch.sign(x) -> x
        for left_out in [*node.args, *node.keywords]:
            kept = [argument for argument in node.args if argument is not left_out]
            named = [keyword for keyword in node.keywords if keyword is not left_out]
            self.put_expression(node, ast.Call(called, kept, named))
        if isinstance(called, ast.Attribute):
            self.visit(called)
        for argument in node.args:
            self.visit(argument)
        for keyword in node.keywords:
            self.visit(keyword.value)

    def _is_module(self, node: ast.expr) -> bool:
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id in self.modules


def _symbol(operator: ast.cmpop) -> str:
    empty = ast.Compare(ast.Name("a"), [operator], [ast.Name("b")])
    return ast.unparse(empty)[2:-2]
