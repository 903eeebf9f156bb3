"""Sphinx extension of the book: quiet cells, chapter numbers, scripts served locally.

nbdev reads ``#|`` directives, Jupyter Book reads tags. The notebooks carry the
directives only; this extension turns them into tags while a page is read, so that a
reader sees code and no plumbing.
"""

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

DIRECTIVE = re.compile(r"^\s*#\s*\|\s*([\w-]+)")
HIDDEN = {"hide", "default_exp"}
TAGS = {"export": "nb-export", "exports": "nb-export", "exporti": "nb-export"}
STATIC = Path(__file__).parent / "static"


def tidy(cell: dict[str, Any]) -> None:
    """Turn the directives at the head of a code cell into tags."""
    lines = "".join(cell["source"]).splitlines(keepends=True)
    tags = set(cell.setdefault("metadata", {}).get("tags", []))
    start = 0
    for line in lines:
        found = DIRECTIVE.match(line)
        if not found and line.strip():
            break
        start += 1
        if found and found[1] in HIDDEN:
            tags.add("remove-cell")
        elif found and found[1] in TAGS:
            tags.add(TAGS[found[1]])
    cell["source"] = "".join(lines[start:])
    if not cell["source"].strip():
        tags.add("remove-cell")
    if tags:
        cell["metadata"]["tags"] = sorted(tags)


def number(docname: str) -> str:
    """``"2"`` for nbs/02_scales, ``"A2"`` for nbs/appendices/a2_data, else empty."""
    found = re.match(r"(?:0?(\d+)|a(\d+))_", docname.rpartition("/")[2])
    if not found:
        return ""
    return found[1] or f"A{found[2]}"


def read_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Tidy the cells of a notebook and number its title; `source` is its JSON."""
    if not str(app.env.doc2path(docname)).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            tidy(cell)
    title = notebook["cells"][0]
    if (chapter := number(docname)) and title["cell_type"] == "markdown":
        text = "".join(title["source"])
        title["source"] = re.sub(r"^# ", f"# {chapter} · ", text, count=1)
    source[0] = json.dumps(notebook)


def vendor(app: Sphinx, config: Config) -> None:
    """Serve MathJax and the widget scripts from the book itself.

    Without ``node_modules`` (see package.json) the defaults stay, which load them
    from other sites. The folder may not be called vendor: the theme owns that name.
    """
    root = Path(app.outdir).parent / "vendored"
    node, lib = Path(app.srcdir) / "node_modules", root / "lib"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(STATIC, root)
    lib.mkdir()
    config.html_static_path.append(str(root))
    spec = find_spec("anywidget")
    if spec and spec.origin:
        script = Path(spec.origin).parent / "nbextension" / "index.js"
        shutil.copy(script, lib / "anywidget.js")
    needed = ("mathjax", "requirejs", "@jupyter-widgets/html-manager")
    if not all((node / name).is_dir() for name in needed):
        return
    es5, fonts = node / "mathjax" / "es5", "output/chtml/fonts"
    shutil.copytree(es5 / fonts, lib / "mathjax" / fonts)
    shutil.copy(es5 / "tex-chtml.js", lib / "mathjax")
    shutil.copy(node / "requirejs" / "require.js", lib)
    shutil.copy(node / "@jupyter-widgets/html-manager/dist/embed-amd.js", lib)
    (lib / "paths.js").write_text(
        "window.FontAwesomeConfig = {observeMutations: false};\n"
        "requirejs.config({paths: {anywidget: "
        "document.currentScript.src.replace(/[^/]*$/, '') + 'anywidget'}});\n"
    )
    config.mathjax_path = "lib/mathjax/tex-chtml.js"
    scripts = ("require.js", "paths.js", "embed-amd.js")
    config.nb_ipywidgets_js = {f"lib/{name}": {} for name in scripts}


def drop_thebe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Leave out the live-kernel script, which is loaded twice and breaks each page."""

    def mentions(script: object) -> bool:
        body = getattr(script, "attributes", {}).get("body") or ""
        return "thebe" in f"{getattr(script, 'filename', '')}{body}".lower()

    scripts = context.get("script_files", [])
    context["script_files"] = [s for s in scripts if not mentions(s)]


def own_words(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Leave out a docstring that a method has from a class of another library."""
    if what == "method" and not thing.__doc__:
        lines.clear()


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("config-inited", vendor)
    app.connect("source-read", read_source)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("autodoc-process-docstring", own_words)
    app.add_css_file("srdd.css")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
