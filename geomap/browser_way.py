"""The browser's way to a server on a port of the machine that Python runs on.

Python speaks to the server directly; the browser may sit elsewhere. Who decides, the first that can:

    url                         what the caller says, like "/user/anna/proxy/{port}/"
    GEOMAP_TILE_URL             the same, from the environment
    VSCODE_PROXY_URI            VS Code in a browser (code-server, Coder): it forwards ports below its address
    JUPYTERHUB_SERVICE_PREFIX   JupyterHub, with jupyter-server-proxy in the user's server
    Google Colab                its kernel proxy
    the Jupyter server          that started this kernel: below its base URL, if its jupyter-server-proxy
                                reaches the port
    none of them                the address itself

A path is relative to the host of the page, so it holds whatever name and port the browser knows that host by:
over a tunnel, in a container, behind a Hub. A page of VS Code has no such host, hence whole addresses there.
VS Code on the desktop forwards ports of a remote machine under the same numbers: the address itself works.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

VARIABLE = "GEOMAP_TILE_URL"
HUB = "JUPYTERHUB_SERVICE_PREFIX"
CODE = "VSCODE_PROXY_URI"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
ANSWER_S = 10
PROBE = "/healthz"  # what a tile server answers at once


def is_loopback(address: str) -> bool:
    """Whether a URL leads to this machine."""
    return urlsplit(address).hostname in LOOPBACK


def for_browser(address: str, url: str | None = None, environ: Mapping[str, str] | None = None) -> str:
    """Where the browser finds a server.

    Args:
        address: URL at which Python reaches the server.
        url: Template with `{port}`, which goes before everything else.
        environ: Variables; those of the process if None.

    Returns:
        A URL, or a path on the host of the notebook, without a slash at its end.
    """
    variables = os.environ if environ is None else environ
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    said = url or variables.get(VARIABLE)
    if said:
        return said.replace("{port}", str(port)).rstrip("/")
    if not is_loopback(address):
        return address.rstrip("/")
    way = _of_environment(variables, port) or _of_colab(port) or _of_jupyter(variables, port, parts.path)
    return f"{way.rstrip('/')}{parts.path}".rstrip("/") if way else address.rstrip("/")


def _of_environment(variables: Mapping[str, str], port: int) -> str | None:
    code, prefix = variables.get(CODE, ""), variables.get(HUB)
    if code.startswith(("http://", "https://")) and "{{port}}" in code:
        return code.replace("{{port}}", str(port))
    return f"{prefix.rstrip('/')}/proxy/{port}" if prefix else None


def _of_colab(port: int) -> str | None:
    """The address at which Google Colab shows a port of its machine to the notebook's user."""
    if "google.colab" not in sys.modules:
        return None
    output = importlib.import_module("google.colab.output")
    return str(output.eval_js(f"google.colab.kernel.proxyPort({port}, {{'cache': true}})"))


def _of_jupyter(variables: Mapping[str, str], port: int, path: str) -> str | None:
    """The way through the Jupyter server that started this kernel, if it leads to the port."""
    if "__vsc_ipynb_file__" in vars(sys.modules["__main__"]):  # seen in VS Code, whose pages have no host
        return None
    server = _jupyter_server(variables)
    if server is None:
        return None
    way = f"proxy/{port}"
    leads = _leads(server, way + path)
    if leads is None:  # it asks for a password: believe that what this environment has, the server has, too
        leads = importlib.util.find_spec("jupyter_server_proxy") is not None
    return f"{server['base_url'].rstrip('/')}/{way}" if leads else None


def _jupyter_server(variables: Mapping[str, str]) -> dict[str, Any] | None:
    """What the Jupyter server that started this kernel says of itself, in a file beside the kernel's own."""
    pid = variables.get("JPY_PARENT_PID") or os.getppid()
    for argument in sys.argv[1:]:  # -f FILE or --f=FILE
        file = Path(argument.rpartition("=")[2])
        if file.suffix == ".json" and file.name.startswith("kernel-"):
            try:
                said = json.loads(file.with_name(f"jpserver-{pid}.json").read_bytes())
            except (OSError, ValueError):
                return None
            return said if isinstance(said, dict) and {"url", "base_url"} <= said.keys() else None
    return None


def _leads(server: Mapping[str, Any], way: str) -> bool | None:
    """Whether a way below a Jupyter server leads to a tile server; None where only its user may know."""
    url = f"{server['url'].rstrip('/')}/{way}{PROBE}"
    if not url.startswith(("http://", "https://")):
        return None  # a socket in the file system
    request = Request(url, headers={"Authorization": f"token {server.get('token', '')}"})
    try:
        # A proxy of the network leads nowhere on this machine.
        with build_opener(ProxyHandler({})).open(request, timeout=ANSWER_S) as answer:
            return bool(json.load(answer) == {"status": "ok"})
    except (OSError, HTTPException, ValueError) as error:
        return False if getattr(error, "code", None) == 404 else None
