"""The API in words: a page made from /openapi.json, without a script and without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 "
    "1rem;color-scheme:light dark}summary{cursor:pointer;padding:.25rem "
    "0}code{font-size:.95em}table{border-collapse:collapse}td,th{border:1px solid #8888;padding:.2rem "
    ".5rem;text-align:left;vertical-align:top}"
)


def router(app: FastAPI) -> APIRouter:
    """The route /docs of an app."""
    api = APIRouter(include_in_schema=False)

    @api.get("/docs", response_class=HTMLResponse)
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(page(app.openapi()), headers={"Cache-Control": "public, max-age=60"})

    return api


def page(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document."""
    parts = [
        _operation(path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    title = escape(document["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: the API</title>'
        f'<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head><body><h1>{title}: the API</h1>"
        f"<p>{escape(document['info'].get('description', ''))}</p>"
        f'<p><a href="openapi.json">openapi.json</a> says the same for programs.</p>'
        f"{''.join(parts)}</body></html>"
    )


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    rows = "".join(_parameter(parameter) for parameter in operation.get("parameters", ()))
    head = "<tr><th>Name</th><th>In</th><th>Meaning</th><th>Form</th></tr>"
    table = f"<table>{head}{rows}</table>" if rows else ""
    answers = "".join(
        f"<li>{escape(status)}: {escape(answer.get('description', ''))}</li>"
        for status, answer in operation.get("responses", {}).items()
    )
    return (
        f"<details><summary><code>{method.upper()} {escape(path)}</code> "
        f"{escape(operation.get('summary', ''))}</summary>"
        f"<p>{escape(operation.get('description', ''))}</p>{table}<ul>{answers}</ul></details>"
    )


def _parameter(parameter: Mapping[str, Any]) -> str:
    schema = parameter.get("schema", {})
    options = [schema, *schema.get("anyOf", ())]
    form = next((each["pattern"] for each in options if "pattern" in each), schema.get("type", ""))
    cells = (parameter["name"], parameter["in"], parameter.get("description", ""), form)
    return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"
