"""All that is public has annotations, a complete docstring, and a place in the reference."""

import ast
import inspect
import re
import textwrap
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import fastkeras

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "api"
SHOWN = re.compile(r"^::: ([a-z0-9_.]+)$", re.MULTILINE)  # modules and functions
MODULES = sorted({name for page in PAGES.glob("*.md") for name in SHOWN.findall(page.read_text())})
SECTION = re.compile(
    r"^(Args|Call arguments|Call|Attributes|Returns|Yields|Raises|Example|Source):", re.MULTILINE
)


def names_in(module):
    """The public names of a module, with their values: `__all__`, or all that it defines."""
    own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__]
    names = getattr(module, "__all__", [name for name in own if not name.startswith("_")])
    return {name: getattr(module, name) for name in names}


@cache
def public():
    """Every public function and class, once, under the name of a module that users import."""
    found = {}
    for name in MODULES:
        try:
            shown = import_module(name)
        except ModuleNotFoundError as error:
            owner, _, short = name.rpartition(".")
            if error.name == name:  # a function on a page of its own
                found[name] = getattr(import_module(owner), short)
            elif (error.name or "").startswith("fastkeras"):
                raise
            continue  # without torch, or TensorFlow
        for short, value in names_in(shown).items():
            is_shown = inspect.isfunction(value) or inspect.isclass(value)
            if is_shown and value not in found.values():
                found[f"{name}.{short}"] = value
    return found


def is_ours(value):
    return value.__module__.startswith("fastkeras")


def methods_of(cls):
    """Name and function of each public method and property, and whether it is ours alone."""
    for base in filter(is_ours, cls.__mro__):
        others = [b for b in cls.__mro__ if not is_ours(b)]
        for name, value in vars(base).items():
            function = getattr(value, "fget", getattr(value, "__func__", value))
            written = inspect.isfunction(function) and is_ours(function)
            if written and (name in ("__init__", "__post_init__") or not name.startswith("_")):
                yield name, function, not any(name in vars(other) for other in others)


def functions_of(value):
    """The functions that a user calls by a public name: itself, or the methods of a class."""
    return [f for _, f, _ in methods_of(value)] if inspect.isclass(value) else [value]


def parameters_of(function):
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.name not in ("self", "cls")]


def sections(function):
    head, *rest = SECTION.split(inspect.getdoc(function) or "")
    parts = {"": head}
    for title, text in zip(rest[::2], rest[1::2], strict=True):
        parts[title] = parts.get(title, "") + text
    return parts


def described(function):
    """The parameters that a docstring describes: entries of a section, or names in backquotes."""
    parts = sections(function)
    entries = "\n".join(map(parts.get, {"Args", "Call", "Call arguments", "Attributes"} & {*parts}))
    listed = re.findall(r"^ {4}(?=[*\w])([\w\s,*]*?):", entries, re.MULTILINE)
    text = inspect.getdoc(function).partition("Example:")[0]
    return {*re.findall(r"\w+", " ".join(listed)), *re.findall(r"`\**(\w+)`", text)}


def raised(function):
    """The names of the exceptions that a function raises itself."""
    if function.__code__.co_filename == "<string>":  # made by @dataclass
        return set()
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    inner = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n is not tree]
    nodes = {*ast.walk(tree)} - {n for function in inner for n in ast.walk(function)}
    raises = (n.exc for n in nodes if isinstance(n, ast.Raise))
    return {e.func.id for e in raises if isinstance(e, ast.Call) and isinstance(e.func, ast.Name)}


@pytest.mark.parametrize("name", public())
def test_every_argument_and_result_has_an_annotation(name):
    for function in functions_of(public()[name]):
        signature = inspect.signature(function)
        bare = [p.name for p in parameters_of(function) if p.annotation is p.empty]
        assert not bare, f"{function.__qualname__}: {bare}"
        assert signature.return_annotation is not signature.empty, function.__qualname__


@pytest.mark.parametrize("name", public())
def test_every_argument_is_described(name):
    value = public()[name]
    made_by = getattr(value, "__init__", value) if inspect.isclass(value) else value
    if hasattr(value, "_fields"):
        asked = set(value._fields)
    elif inspect.isfunction(made_by) and is_ours(made_by):
        asked = {p.name for p in parameters_of(made_by)}
    else:
        asked = set()  # made as Keras makes it
    assert asked <= described(value), asked - described(value)
    for short, function, is_ours_alone in methods_of(value) if inspect.isclass(value) else ():
        if is_ours_alone and short[:2] != "__" and short not in described(value):
            assert inspect.getdoc(function), function.__qualname__
            if {"Args", "Returns"} & {*sections(function)}:  # more than the line that says it all
                missing = {p.name for p in parameters_of(function)} - described(function)
                assert not missing, f"{function.__qualname__}: {missing}"


@pytest.mark.parametrize("name", [n for n, v in public().items() if inspect.isfunction(v)])
def test_every_result_is_described(name):
    function = public()[name]
    if inspect.signature(function).return_annotation not in (None, "None"):
        parts = sections(function)
        assert {"Returns", "Yields"} & {*parts} or parts[""].startswith("Return ")


@pytest.mark.parametrize("name", public())
def test_every_error_is_described(name):
    value = public()[name]
    for function in functions_of(value):
        text = f"{value.__doc__}{function.__doc__}"
        undescribed = {error for error in raised(function) if error not in text}
        assert undescribed <= {"NotImplementedError"}, function.__qualname__


@pytest.mark.parametrize("name", public())
def test_every_name_has_an_example(name):
    value = public()[name]
    if inspect.isclass(value) and (issubclass(value, tuple) or getattr(value, "_is_protocol", 0)):
        return  # what functions return or take
    see = re.search(r"^ +See `(\w+)`", sections(value).get("Example", ""), re.MULTILINE)
    named = [v for v in public().values() if see and v.__name__ == see[1]] or [value]
    assert any(">>>" in one.__doc__ for one in named) or ">>>" in inspect.getmodule(value).__doc__


def test_the_reference_shows_every_public_module():
    for name in fastkeras.__all__:
        value = getattr(fastkeras, name)
        if inspect.ismodule(value):
            assert value.__name__ in MODULES
            within = names_in(value).values()
            assert {m.__name__ for m in within if inspect.ismodule(m)} <= {*MODULES}
        elif callable(value):
            assert f"fastkeras.{name}" in MODULES or value in public().values()


def test_the_reference_shows_every_module_that_the_pages_name():
    pages = {*(ROOT / "docs").rglob("*.md")} - {*PAGES.glob("*.md")}
    for page in {ROOT / "README.md", *pages}:
        for name in re.findall(r"\bfastkeras(?:\.[a-z]\w*)+", page.read_text("utf-8")):
            path = ROOT.joinpath(*name.split("."))
            if path.with_suffix(".py").exists() or (path / "__init__.py").exists():
                has_a_place = any(f"{known}.".startswith(f"{name}.") for known in MODULES)
                assert has_a_place or "._" in name, f"{page}: {name}"
