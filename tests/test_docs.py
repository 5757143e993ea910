"""The documentation says all there is, and nothing else: commands, settings, recipes, errors, routes."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import importlib.util
import inspect
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from geomap import cli
from tiles import workers
from tiles.settings import PREFIX, Settings
from train.data.registry import OPENERS, options_of
from train.errors import ThreePartError
from train.recipe import OBJECTIVES, SHIPPED, read_recipe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGES = ("geomap", "train", "tiles")
MADE = ("_build", "reference/modules")  # by Sphinx, and by docs/_ext
PAGES = sorted(
    path for path in DOCS.rglob("*.md")
    if not path.relative_to(DOCS).as_posix().startswith(MADE) and path.name != "README.md"
)  # fmt: skip
PROGRAMS = {"python -m tiles": "geomap serve"}
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def extension(name: str):
    """A module of docs/_ext, as Sphinx imports it."""
    folder = str(DOCS / "_ext")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def page(name: str) -> str:
    """A page with everything that is generated into it."""
    return extension("generated").fill((DOCS / f"{name}.md").read_text("utf-8"))


def sources() -> dict[str, ast.Module]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            found[path.relative_to(ROOT).as_posix()] = ast.parse(path.read_text("utf-8"))
    return found


def sections(text: str) -> dict[str, str]:
    """The text below each heading of the second level."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def typed_commands() -> dict[str, object]:
    names = {f"geomap {name}": module for name, (module, _) in cli.COMMANDS.items()}
    names["python -m geomap.bundle"] = "geomap.bundle"
    return {name: get_command(importlib.import_module(module).app) for name, module in names.items()}


def parsers() -> dict[str, argparse.ArgumentParser]:
    modules = ("train.pretrain", "train.evaluate", "train.pretrain_pair")
    return {f"python -m {name}": importlib.import_module(name).parser() for name in modules}


# Commands


def test_every_program_of_the_packages_is_known_here():
    makers = ("Typer", "ArgumentParser", "_Parser")
    made = {
        path for path, tree in sources().items() for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in makers
    }  # fmt: skip
    known = {module.replace(".", "/") + ".py" for module, _ in cli.COMMANDS.values()}
    known |= {name.split()[-1].replace(".", "/") + ".py" for name in parsers()} | {"geomap/bundle.py"}
    assert made - known == {"geomap/completion.py"}  # which completes the others


@pytest.mark.parametrize("name", [*typed_commands(), *parsers()])
def test_every_option_of_a_command_is_in_the_reference(name):
    section = sections(page("reference/commands"))[name]
    told = set(
        re.findall(r"(--[a-z][a-z-]*)", " ".join(re.findall(r"^`+\{option\} (.*)$", section, re.MULTILINE)))
    )
    if name in parsers():
        actions = parsers()[name]._actions
        there = {option for action in actions for option in action.option_strings} - {"-h", "--help"}
    else:
        parameters = typed_commands()[name].params
        there = {
            option for each in parameters for option in (*each.opts, *each.secondary_opts) if option[0] == "-"
        }
    assert told == there


def test_every_option_has_words():
    commands = extension("command_pages").commands()
    assert sum(len(command.parameters) for command in commands) > 100
    assert [(c.name, p.names) for c in commands for p in c.parameters if len(p.what) < 8] == []


def test_options_of_geomap_itself_are_in_the_reference():
    text = page("reference/commands")
    for option in re.findall(r"^  (--[a-z-]+)", cli.MANUAL, re.MULTILINE):
        assert f"`{option}" in text


# Exit codes


def exit_codes() -> set[int]:
    """Numbers that the code ends a process with."""
    codes = {int(code) for code in re.findall(r"^  (\d+)  ", cli.MANUAL, re.MULTILINE)}
    codes |= {workers.FAILED, *workers.HOPELESS}
    ends = {"main", "run", "refuse", "answer", "set_up", "serve", "serve_here", "_replace"}
    for tree in sources().values():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.FunctionDef)
                and node.name in ends
                and ast.unparse(node.returns or node) == "int"
            ):
                returns = [each.value for each in ast.walk(node) if isinstance(each, ast.Return)]
                codes |= {value.value for value in returns if isinstance(value, ast.Constant)}
            ends_here = isinstance(node, ast.Call) and ast.unparse(node.func) in ("typer.Exit", "sys.exit")
            if ends_here and node.args and isinstance(node.args[0], ast.Constant):
                codes.add(int(node.args[0].value))
    return codes


def test_every_exit_code_is_in_the_reference():
    told = {int(code) for code in re.findall(r"^\| `(\d+)` \|", page("reference/exit-codes"), re.MULTILINE)}
    assert exit_codes() >= {0, 1, 2, 3, 130}
    assert told == exit_codes()


# Settings and variables


def test_every_environment_variable_is_in_the_reference():
    written = (DOCS / "reference" / "environment.md").read_text("utf-8")  # by hand: what it does, not where
    there = extension("environment_pages").read_variables()
    assert {"GEOMAP_BUNDLE", "GEOMAP_TILE_SERVER", "AWS_S3_ENDPOINT", "WORLD_SIZE"} <= set(there)
    assert [name for name in there if f"`{name}`" not in written] == []


def test_variables_that_the_pages_name_exist():
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {PREFIX}
    known |= set(extension("environment_pages").read_variables())
    for path in [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        text = path.read_text("utf-8").replace(f"{PREFIX}*", "")
        named = set(re.findall(r"\bGEOMAP_[A-Z0-9_]*[A-Z0-9]", text))
        assert named <= known | known_tags(), path.name


def known_tags() -> set[str]:
    """Names of the tags of map files, which look like variables."""
    text = (ROOT / "geomap" / "mapfile.py").read_text("utf-8")
    return {f"GEOMAP_{name}" for name in re.findall(r'^        "([A-Z_]+)": ', text, re.MULTILINE)} | {
        "GEOMAP_INPUTS",
        "GEOMAP_THRESHOLDS",
    }


# Recipes


def test_every_key_of_the_recipes_is_in_the_reference():
    recipes = extension("recipe_pages")
    told = set(re.findall(r"^\| `([^`]+)` \|", page("reference/recipes"), re.MULTILINE))
    for name in OBJECTIVES:
        of_model = sections(page("reference/recipe-models"))[f"[model] of {name}"]
        told_of_model = set(re.findall(r"^\| `([^`]+)` \|", of_model, re.MULTILINE))
        module, config, _ = OBJECTIVES[name]
        fields = dataclasses.fields(getattr(importlib.import_module(module), config))
        for field in fields:
            assert any(
                key == f"model.{field.name}" or key.startswith(f"model.{field.name}.")
                for key in told_of_model
            )
        for path in SHIPPED.glob("*.toml"):
            table = tomllib.loads(path.read_text("utf-8"))
            if table["objective"] == name:
                below = {key for key in flat(table.get("model", {}), "model.") if ".options." not in key}
                assert below <= told_of_model, path.name
    for path in SHIPPED.glob("*.toml"):
        table = tomllib.loads(path.read_text("utf-8"))
        keys = {re.sub(r"augment\.\w+", "augment.VIEW", key) for key in flat({**table, "model": {}}, "")}
        assert {key for key in keys if not key.startswith("data.options.world.")} <= told, path.name
        assert f"`{path.stem}`" in recipes.shipped()


def flat(table: dict, above: str) -> set[str]:
    found = set()
    for key, value in table.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key}
    return found


def test_every_kind_of_data_is_in_the_reference_with_its_options():
    text = extension("recipe_pages").data()
    parts = dict(re.findall(r'^### kind = "(\w+)"$(.*?)(?=^###|\Z)', text, re.MULTILINE | re.DOTALL))
    assert set(parts) == set(OPENERS)
    for kind in OPENERS:
        assert set(re.findall(r"`data\.options\.(\w+)`", parts[kind])) == set(options_of(kind))


def test_every_key_has_words():
    recipes = extension("recipe_pages")
    rows = [row for text in (recipes.text(), recipes.models(), recipes.data()) for row in text.splitlines()]
    tables = [row for row in rows if row.startswith("| `")]
    assert len(tables) > 200
    assert [row for row in tables if len(row.split(" | ")[-1]) < 6] == []


# Errors


def error_classes() -> dict[str, type]:
    found = {}
    for path, tree in sources().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                module = path.removesuffix(".py").replace("/", ".")
                cls = getattr(importlib.import_module(module), node.name)
                if issubclass(cls, ThreePartError):
                    found[node.name] = cls
    return found


def test_every_error_is_in_the_reference_with_advice():
    written = sections((DOCS / "reference" / "errors.md").read_text("utf-8"))
    assert set(written) == set(error_classes())
    for name, text in written.items():
        mark = f"<!-- generated: error {name} -->"
        assert mark in text
        assert len(text.replace(mark, "").strip()) > 40, f"{name}: what to do?"


def test_the_reference_says_exit_code_and_status_of_an_error():
    text = sections(page("reference/errors"))
    for name, cls in error_classes().items():
        assert "| exit code of a command | 2 |" in text[name]
        assert inspect.getdoc(cls).split(".")[0][:20] in text[name].replace("\\", "")
    assert "| HTTP status of the tile server | 404 |" in text["NotServedError"]
    assert "| HTTP status of the tile server | 422 |" in text["QueryError"]
    assert "| HTTP status of the tile server | 503 |" in text["FieldError"]


def test_messages_are_listed_as_they_are_written():
    text = page("reference/error-messages")
    for said in ("cannot lay so large a grid", "Give a coarser --resolution.", "cannot show the web map"):
        assert said in text
    assert "cannot find the species" in sections(text)["NameNotFoundError"]
    messages = extension("error_pages").messages_of()
    assert len(messages) > 400
    assert sum(message.what == "…" for message in messages) < 0.1 * len(messages)


# HTTP


def test_every_route_is_in_the_reference():
    http = extension("http_pages")
    text = page("reference/http")
    listed = [f"### `{verb} {path}`" for verb, path, _ in http.operations()]
    assert len(listed) > 25
    assert [head for head in listed if head not in text] == []
    for _, path, operation in http.operations():
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description"), f"{path}: {parameter['name']} has no words"


# Modules


def test_every_module_has_a_page_with_its_first_line():
    pages = extension("module_pages").pages()
    for path in sources():
        if path.startswith(("geomap/bundle/", "tiles/web/")) or path.endswith("__main__.py"):
            continue
        name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        package = name.split(".")[0]
        assert f"`{name} <" in pages[f"{package}-modules.md"]
        assert name == "geomap" or f"automodule:: {name}\n" in pages[f"{name}.md"]


def test_public_functions_are_on_the_page_of_python():
    import geomap

    text = page("reference/python")
    for name in geomap.__all__:
        assert f"geomap.{name}" in text
    for name in geomap.COMMANDS:
        assert f".. py:function:: geomap.{name}(" in text


@pytest.mark.parametrize(
    "given, made",
    [
        (["A `b` and c|d*."], ["A ``b`` and c\\|d\\*.", ""]),
        (
            ["Tree", "└── a_", "    └── b"],
            [".. code-block:: text", "", "    Tree", "    └── a_", "        └── b", ""],
        ),
        (["Say:", "", "    geomap *x*"], ["Say:", "", ".. code-block:: text", "", "        geomap *x*", ""]),
        (["Args:", "    x: One `y`.", "        More."], ["Args:", "    x: One ``y``.", "        More.", ""]),
        (["- one", "  of *it*"], ["- one", "  of \\*it\\*", ""]),
    ],
)
def test_docstrings_are_taken_as_plain_text(given, made):
    assert extension("docstrings").literal(given) == made


def test_signatures_stay_as_they_are_written():
    from geomap.thresholds import presence_quantile

    parameters, returned = extension("docstrings").signature_of(presence_quantile)
    assert parameters == "(scores: NDArray[np.floating], weights: NDArray[np.floating], share: float)"
    assert returned == "Float"


# Pages


def toctree(path: Path) -> list[str]:
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", path.read_text("utf-8"), re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and line[0] != ":"]


def test_every_page_is_in_a_toctree():
    named = {(path.parent / entry).resolve() for path in PAGES for entry in toctree(path)}
    alone = [path.relative_to(DOCS) for path in PAGES if path.with_suffix("").resolve() not in named]
    assert alone == [Path("index.md")]


def test_the_order_of_pages_begins_as_agreed():
    assert toctree(DOCS / "index.md") == [
        "quickstart", "tutorials/index", "howto/index", "concepts/index", "reference/index",
        "papers", "model-card", "architecture", "scaling", "contributing",
    ]  # fmt: skip
    assert [name[:3] for name in toctree(DOCS / "tutorials" / "index.md")] == [
        f"{n:02}_" for n in range(1, 7)
    ]


def blocks(path: Path, *languages: str) -> list[str]:
    found = BLOCK.findall(path.read_text("utf-8"))
    return [inspect.cleandoc("\n" + text) for _, language, text in found if language in languages]


def shell_lines(path: Path) -> list[str]:
    """Commands of a page: lines after `$ ` in console blocks, all of bash blocks; a backslash joins lines."""
    lines = []
    for text in blocks(path, "console"):
        given = text.replace("\\\n", " ").splitlines()
        prompted = [line[2:] for line in given if line.startswith("$ ")]
        lines += prompted or [line for line in given if line.startswith(("geomap", "python", "torchrun"))]
    for text in blocks(path, "bash"):
        lines += text.replace("\\\n", " ").splitlines()
    return lines


def calls(path: Path) -> list[list[str]]:
    """Words of every call of a command of ours, from the command on."""
    found = []
    for line in shell_lines(path):
        words = shlex.split(line, comments=True)
        if words[:2] == ["sudo", "-u"]:
            words = words[3:]
        while words and "=" in words[0]:
            words = words[1:]
        if words[:1] == ["torchrun"]:
            words = ["python", *words[words.index("-m") :]]
        ours = words[:1] == ["geomap"] or (
            words[:2] == ["python", "-m"] and words[2].split(".")[0] in PACKAGES
        )
        if ours:
            cut = next((n for n, word in enumerate(words) if word in ("|", "&&", ";", ">", "&")), len(words))
            found.append(words[:cut])
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_commands_in_the_pages_are_understood(path):
    for words in calls(path):
        if words[0] == "geomap":
            name, rest = " ".join(words[:2]), words[2:]
            if name.startswith("geomap --"):
                assert words[1] in cli.MANUAL
                continue
        else:
            name, rest = " ".join(words[:3]), words[3:]
        name = PROGRAMS.get(
            name,
            name.replace("python -m geomap.", "geomap ").replace("geomap bundle", "python -m geomap.bundle"),
        )
        if name in parsers():
            given = parsers()[name].parse_args(rest)
            if name.endswith("pretrain"):
                read_recipe(given.recipe, given.set)
        else:
            typed_commands()[name].make_context(name, list(rest))  # refuses an option that does not exist


def test_commands_are_found_in_the_pages():
    assert ["geomap", "render", "--species", "California poppy", "--png"] in calls(DOCS / "quickstart.md")
    assert sum(len(calls(path)) for path in (DOCS / "howto").glob("*.md")) > 30


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_python_in_the_pages_compiles_and_names_what_exists(path):
    for text in blocks(path, "python"):
        tree = ast.parse(text.replace(";\n", "\n"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    assert importlib.util.find_spec(alias.name), alias.name
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
            elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("geomap."):
                function = public(ast.unparse(node.func))
                named = {keyword.arg: None for keyword in node.keywords if keyword.arg}
                inspect.signature(function).bind(*node.args, **named)


def public(dotted: str):
    import geomap

    found = geomap
    for part in dotted.split(".")[1:]:
        found = getattr(found, part)
    return found


def test_make_targets_in_the_pages_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for path in PAGES:
        named = set(re.findall(r"`make ([a-z-]+)", path.read_text("utf-8")))
        assert named <= targets | {"notebooks"}, path.name


def test_nothing_is_loaded_from_elsewhere():
    for path in [DOCS / "conf.py", *DOCS.glob("_static/*")]:
        assert not re.search(r"url\(['\"]?https?:|cdn|intersphinx", path.read_text("utf-8"))


# The program that follows the links of the built pages


@pytest.fixture
def check_links():
    spec = importlib.util.spec_from_file_location("check_links", DOCS / "check_links.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def built(folder: Path, body: str, head: str = "") -> Path:
    (folder / "a").mkdir()
    (folder / "index.html").write_text(f"<html><head>{head}</head><body>{body}</body></html>")
    (folder / "a" / "page.html").write_text('<h1 id="top">A</h1><a href="../index.html">up</a>')
    (folder / "style.css").write_text("a { background: url('a/page.html') }")
    return folder


def test_links_that_lead_somewhere_pass(check_links, tmp_path, capsys):
    body = '<a href="a/page.html#top">x</a> <a href="#here" id="here">y</a> <a href="https://example.org/z">z</a>'
    folder = built(tmp_path, body, '<link rel="stylesheet" href="style.css">')
    assert check_links.main([str(folder)]) == 0
    assert capsys.readouterr().out == "2 pages, 0 faults\n"


@pytest.mark.parametrize(
    "body, head, said",
    [
        ('<a href="b.html">x</a>', "", "links to b.html, which is not there"),
        ('<a href="a/page.html#no">x</a>', "", "has no such place"),
        ('<a href="#no">x</a>', "", "has no such place"),
        ('<a href="http:/x y">x</a>', "", "is no address"),
        ('<a href="javascript:alert(1)">x</a>', "", "is no address"),
        ('<img src="none.png">', "", "loads none.png, which is not there"),
        ('<script src="https://cdn.example.org/x.js"></script>', "", "from elsewhere"),
        ("", '<link rel="stylesheet" href="//fonts.example.org/f.css">', "from elsewhere"),
        ("", "<style>@import 'https://fonts.example.org/f.css';</style>", "from elsewhere"),
    ],
)
def test_links_that_lead_nowhere_are_told(check_links, tmp_path, capsys, body, head, said):
    assert check_links.main([str(built(tmp_path, body, head))]) == 1
    out = capsys.readouterr().out
    assert said in out
    assert "index.html" in out
    assert "1 faults" in out


def test_a_folder_without_pages_is_a_fault(check_links, tmp_path):
    assert check_links.main([str(tmp_path)]) == 1
