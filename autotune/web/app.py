"""The application: which address is answered by what, and what is said when something cannot be."""

from __future__ import annotations

import contextlib
import logging
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import autotune
from autotune.errors import AutotuneError, StateError, UnknownNameError, UsageError
from autotune.store import read_history
from autotune.store.plausibility import blamed
from autotune.web import figures, pages
from autotune.web.guard import Guard
from autotune.web.page import Figure, Page, View
from autotune.web.question import Question
from autotune.web.tables import as_csv, as_json, pager

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request

logger = logging.getLogger("autotune.web")

HERE = os.path.dirname(__file__)
MENU = (
    ("Overview", "/"),
    ("Winners", "/workload"),
    ("Trade-offs", "/trade-offs"),
    ("Studies", "/studies"),
    ("Generations", "/generations"),
)
FRESH = {"cache-control": "no-store"}
LASTING = {"cache-control": "public, max-age=86400"}

PAGES: dict[str, View] = {
    "/": pages.overview,
    "/workload": pages.workload,
    "/trade-offs": pages.trade_offs,
    "/winner/{winner:int}": pages.winner,
    "/studies": pages.studies,
    "/study/{study:int}": pages.study,
    "/study/{study:int}/trial/{trial:int}": pages.trial,
    "/generations": pages.generations,
    "/generation/{generation:int}": pages.generation,
}
FIGURES: dict[str, Figure] = {
    "/plot/speedups": figures.speedups,
    "/workload/plot/sizes": figures.sizes,
    "/winner/{winner:int}/plot/front": figures.front,
    "/study/{study:int}/plot/{plot}": figures.of_study,
    "/study/{study:int}/trial/{trial:int}/plot/samples": figures.samples,
}

_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(os.path.join(HERE, "templates")),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.globals.update(version=autotune.__version__, pager=pager)


def application(state_dir: str, host: str = "127.0.0.1", token: str = "", names: Iterable[str] = ()) -> Guard:
    """The site.

    Args:
        state_dir: the folder of the history.
        host: address that is listened on.
        token: that must be shown; empty for none.
        names: further names that the header `Host` may have.
    """
    routes = [
        *(Route(path, partial(_page, state_dir, view)) for path, view in PAGES.items()),
        *(Route(path, partial(_figure, state_dir, figure)) for path, figure in FIGURES.items()),
        Route("/static/plotly.js", _plotly),
        Mount("/static", StaticFiles(directory=os.path.join(HERE, "static"))),
    ]
    refusals: dict[Any, Any] = {
        HTTPException: _http_refusal,
        AutotuneError: _refusal,
        Exception: _failure,
    }
    return Guard(Starlette(routes=routes, exception_handlers=refusals), host, token, names)


def _question(request: Request) -> Question:
    numbers = {name: value for name, value in request.path_params.items() if isinstance(value, int)}
    words = {name: value for name, value in request.path_params.items() if isinstance(value, str)}
    if any(number > 2**63 - 1 for number in numbers.values()):
        raise UnknownNameError("number", "that large", ())
    return Question(request.url.path, {**dict(request.query_params), **words}, numbers)


def _page(state_dir: str, view: View, request: Request) -> Response:
    """Runs in a thread of the pool, with a connection of its own."""
    question = _question(request)
    with _told_apart(state_dir):
        with read_history(state_dir) as reader, _one_moment(reader.connection):
            page = view(reader, question)
        if question.exported:
            return _table(page, question)
        return _html("page.html", 200, page=page, question=question)


@contextlib.contextmanager
def _told_apart(state_dir: str) -> Any:
    """When a page fails, tell a history that holds what cannot be from a mistake of ours."""
    try:
        yield
    except (AutotuneError, HTTPException):
        raise
    except Exception as error:
        fault = blamed(state_dir)
        if fault is None:
            raise
        raise fault from error


@contextlib.contextmanager
def _one_moment(connection: Any) -> Any:
    """Let all queries of a page see the same state, whatever the daemon writes meanwhile."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def _figure(state_dir: str, figure: Figure, request: Request) -> Response:
    question = _question(request)
    with figures.DRAWING, _told_apart(state_dir), read_history(state_dir) as reader:
        drawn = figure(reader, question).to_json()
    return Response(drawn, media_type="application/json", headers=FRESH)


def _table(page: Page, question: Question) -> Response:
    tables = {table.name: table for table in page.tables}
    name = question.choice("table", tables, next(iter(tables), ""))
    kind = question.exported
    written, media = (
        (as_csv(tables[name]), "text/csv") if kind == "csv" else (as_json(tables[name]), "application/json")
    )
    headers = {**FRESH, "content-disposition": f'attachment; filename="{name}.{kind}"'}
    return Response(written, media_type=media, headers=headers)


def _html(template: str, status: int, **context: Any) -> HTMLResponse:
    written = _environment.get_template(template).render(menu=MENU, **context)
    return HTMLResponse(written, status, headers=FRESH)


async def _plotly(_: Request) -> Response:
    """plotly's script, out of the installed package: the one that its figures are made for."""
    import plotly

    script = os.path.join(os.path.dirname(plotly.__file__), "package_data", "plotly.min.js")
    return FileResponse(script, media_type="text/javascript", headers=LASTING)


def _refusal(_: Request, error: Exception) -> Response:
    status = 500
    if isinstance(error, UsageError):
        status = 404 if isinstance(error, UnknownNameError) else 400
    elif isinstance(error, StateError):
        status = 503
    return _told(status, str(error))


def _http_refusal(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    told = "There is no page at this address." if status == 404 else f"This cannot be answered ({status})."
    return _told(status, told)


def _failure(request: Request, error: Exception) -> Response:
    logger.error("%s failed", request.url.path, exc_info=error)
    return _told(500, "This page failed, which is a mistake of autotune; its log has the particulars.")


def _told(status: int, sentence: str) -> Response:
    titles = {400: "Not a question", 404: "Not found", 503: "The history cannot be read"}
    page = Page(title=titles.get(status, "Failed"), section="", lead=[sentence])
    return _html("page.html", status, page=page, question=Question("/", {}))


_Endpoint = "Callable[[Request], Response]"
