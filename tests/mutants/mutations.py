"""Makes mutants of a module: mutmut's operators, and three of its own, applied to one place each."""

from __future__ import annotations

import ast
import difflib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one module. `before` and `after` are the changed lines, without indentation."""

    path: str
    scope: str  # the function or class that contains the change, "" for the module
    line: int
    before: str
    after: str
    diff: str
    source: str = field(repr=False)


@dataclass(slots=True)
class Place:
    """A place that can be changed, and the changed node."""

    path: str
    scope: str
    line: int
    node: cst.CSTNode
    changed: cst.CSTNode
    module: cst.Module
    order: bytes = b""  # hash of seed and content: the order of the sample

    def rendered(self) -> Mutant | None:
        """The mutant; None where the change is not valid Python, or Python reads the same."""
        before, after = self.module.code, self.module.deep_replace(self.node, self.changed).code
        try:
            tree = ast.parse(after)
            compile(tree, self.path, "exec", dont_inherit=True)
        except SyntaxError:
            return None
        return None if ast.dump(tree) == _dump(before) else self._mutant(before, after)

    def _mutant(self, before: str, after: str) -> Mutant:
        diff = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))[2:]
        line = int(diff[0].split()[1].lstrip("-").split(",")[0])
        taken, given = (
            "\n".join(one[1:].strip() for one in diff if one.startswith(sign)) for sign in ("-", "+")
        )
        shown = "\n".join(one for one in diff if not one.startswith("@@"))
        return Mutant(self.path, self.scope, line, taken, given, shown, after)


def sample(root: Path, paths: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """`count` mutants of the modules at `paths`, the same for the same seed and code.

    Each place gives one mutant at most: a call of five arguments counts as much as a comparison. A change of
    the code elsewhere does not change which mutants of a function are taken: the order is a hash of the seed
    and of the mutant's own text.
    """
    found: list[Mutant] = []
    seen: set[cst.CSTNode] = set()
    for place in sorted(places(root, paths, seed), key=lambda one: one.order):
        if place.node in seen or (mutant := place.rendered()) is None:
            continue
        seen.add(place.node)
        found.append(mutant)
        if len(found) == count:
            break
    return sorted(found, key=lambda one: (one.path, one.line))


def places(root: Path, paths: Sequence[str], seed: int = 0) -> Iterator[Place]:
    """Every place of the modules at `paths` that can be changed."""
    for module in modules(root, paths):
        name = module.relative_to(root).as_posix()
        wrapper = MetadataWrapper(cst.parse_module(module.read_text(encoding="utf-8")))
        walk = _Walk(name, wrapper.module)
        wrapper.visit(walk)
        repeated: Counter[bytes] = Counter()
        for place in walk.found:
            text = "\0".join(
                (
                    str(seed),
                    name,
                    place.scope,
                    _code(place.node),
                    type(place.changed).__name__,
                    _code(place.changed),
                )
            ).encode()
            repeated[text] += 1
            place.order = hashlib.sha256(b"%s\0%d" % (text, repeated[text])).digest()
        yield from walk.found


def modules(root: Path, paths: Iterable[str]) -> list[Path]:
    """The Python files at `paths`, which are files or folders below `root`."""
    found: set[Path] = set()
    for path in paths:
        whole = root / path
        found |= {whole} if whole.is_file() else set(whole.rglob("*.py"))
    return sorted(path for path in found if path.name != "__init__.py")


class _Walk(cst.CSTVisitor):
    """Collects the places of a module; leaves out what is not behaviour: types, imports, docs, log lines."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, path: str, module: cst.Module) -> None:
        super().__init__()
        self.found: list[Place] = []
        self._path, self._module = path, module
        self._scope: list[str] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self._scope.append(node.name.value)
        if _is_not_behaviour(node):
            return False
        for changed in _changes(node):
            position = self.get_metadata(PositionProvider, node, None)
            line = position.start.line if position else 0
            self.found.append(Place(self._path, ".".join(self._scope), line, node, changed, self._module))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self._scope.pop()


def _is_not_behaviour(node: cst.CSTNode) -> bool:
    if isinstance(node, cst.Annotation | cst.Import | cst.ImportFrom | cst.Decorator | cst.Assert):
        return True
    if isinstance(node, cst.Expr):  # a docstring, or a line for a log
        value = node.value
        return isinstance(value, cst.BaseString) or (isinstance(value, cst.Call) and _named(value, "log."))
    if isinstance(node, cst.Assign) and isinstance(
        node.value, cst.Call | cst.Subscript | cst.BinaryOperation
    ):
        # a type variable or a name for a type
        return _named(node.value, "TypeVar") or _is_type(node.value)
    return False


def _named(call: cst.CSTNode, start: str) -> bool:
    return isinstance(call, cst.Call) and _code(call.func).startswith(start)


def _is_type(node: cst.BaseExpression) -> bool:
    """`tuple[int, int]`, `Callable[...]`, `dict[str, Any]`; not `Annotated`, which has limits."""
    words = ("tuple[", "dict[", "list[", "Callable[", "set[", "Literal[", "type[")
    return isinstance(node, cst.Subscript) and _code(node).startswith(words)


def _changes(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            yield from operator(node)
    if isinstance(node, cst.Expr) and isinstance(node.value, cst.Call | cst.Await):
        yield cst.Pass()
    if isinstance(node, cst.Raise):
        yield cst.Pass()
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value in ("min", "max"):
        other = {"min": "max", "max": "min"}[node.func.value]
        yield node.with_changes(func=node.func.with_changes(value=other))


@lru_cache(100)
def _dump(source: str) -> str:
    return ast.dump(ast.parse(source))


def _code(node: cst.CSTNode) -> str:
    return cst.Module([]).code_for_node(node)
