"""The HTTP service: ``POST /rank``, ``GET /health``, ``/ready``, ``/model``, ``/metrics``."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from core.documents import JsonObject
from core.settings import Settings, load_settings
from serving.schemas import RankBody, problem_of
from serving.service import RankingService, RefusedError
from serving.stages import Ranked

log = logging.getLogger("serving.api")

BODY_LIMIT = 1_000_000
"""Largest body of a request, bytes."""


def make_app(settings: Settings | None = None) -> FastAPI:
    """The ranking service of a workspace, as an ASGI application.

    Args:
        settings: name the workspace; default: the environment's.
    """
    service = RankingService(settings or load_settings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        await asyncio.to_thread(service.start)
        yield
        await asyncio.to_thread(service.stop)

    app = FastAPI(title="Interest Clock ranking", lifespan=lifespan, description=__doc__ or "")
    app.state.service = service
    app.router.route_class = _StrictRoute
    app.add_middleware(_BodyLimit)
    _add_errors(app, service)
    _add_ranking(app, service)
    _add_pages(app, service)
    return app


def _add_errors(app: FastAPI, service: RankingService) -> None:
    """Answer every error with ``{"error": reason}`` and a fitting status, never with a traceback."""

    @app.exception_handler(RefusedError)
    async def refused(request: HttpRequest, error: RefusedError) -> JSONResponse:
        del request
        service.metrics.answers.labels(str(error.status), "").inc()
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: HttpRequest, error: RequestValidationError) -> JSONResponse:
        del request
        status = 400 if any(e["type"] == "json_invalid" for e in error.errors()) else 422
        service.metrics.answers.labels(str(status), "").inc()
        problems = [problem_of(e) for e in error.errors()[:20]]
        return _error_response(status, problems[0], problems=problems)

    @app.exception_handler(HTTPException)
    async def other(request: HttpRequest, error: HTTPException) -> JSONResponse:
        if request.url.path == "/rank":
            service.metrics.answers.labels(str(error.status_code), "").inc()
        return _error_response(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def broken(request: HttpRequest, error: Exception) -> JSONResponse:
        del request
        number = uuid.uuid4().hex[:12]
        log.error("error %s", number, exc_info=error)
        service.metrics.answers.labels("500", "").inc()
        return _error_response(500, f"an internal error, number {number} in the service's log")


def _add_ranking(app: FastAPI, service: RankingService) -> None:
    key = service.settings.ranking_key

    @app.post("/rank")
    async def rank(body: RankBody, request: HttpRequest) -> JSONResponse:
        """Rank candidates for a user at a point in time."""
        begun = time.perf_counter()
        sent_key = request.headers.get("x-api-key", "")
        if key and not hmac.compare_digest(sent_key.encode(), key.encode()):
            raise RefusedError(401, "the header X-API-Key is missing or wrong")
        ranked = await service.rank(service.request_of(body))
        service.metrics.seconds.observe(time.perf_counter() - begun)
        service.metrics.answers.labels("200", ranked.route.variant or ranked.model_variant).inc()
        if ranked.degraded:
            service.metrics.degraded.labels(ranked.degraded.split(":")[0]).inc()
        return JSONResponse(_json(ranked), headers={"X-Request-ID": ranked.request_id})


def _add_pages(app: FastAPI, service: RankingService) -> None:
    """Add what operators read: probes, the state of models and features, metrics."""

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process is running."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """Whether requests can be answered."""
        reason = service.engine.not_ready()
        return _error_response(503, reason) if reason else JSONResponse({"status": "ready"})

    @app.get("/model")
    async def model() -> JsonObject:
        """Models and versions that rank, the hour of the features, experiments, and what could not be refreshed."""
        engine = service.engine
        snapshot = engine.snapshot
        return {
            "source": service.settings.source,
            "models": {
                name: {
                    "version": m.version,
                    "variant": m.variant,
                    "trained_until": m.hour,
                    **(
                        {"registered": m.registered.version, "newest_sample": m.lane.until}
                        if m.registered and m.lane
                        else {}
                    ),
                }
                for name, m in sorted(snapshot.models.items())
            },
            "shadow": service.settings.serving_shadow or None,
            "features_as_of": snapshot.as_of.key if snapshot.as_of else None,
            "items": snapshot.items,
            "experiments": {e.name: e.models for e in snapshot.routes.experiments},
            "problems": engine.problems,
        }

    @app.get("/metrics")
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _json(ranked: Ranked) -> JsonObject:
    return {
        "request_id": ranked.request_id,
        "items": [{"item": i, "score": s} for i, s in zip(ranked.items, ranked.scores, strict=True)],
        "model": {"version": ranked.version, "variant": ranked.model_variant},
        "experiment": ranked.route.experiment or None,
        "variant": ranked.route.variant or None,
        "degraded": ranked.degraded or None,
        "features_as_of": ranked.features_as_of.key,
        "user_known": ranked.user_known,
        "unknown_items": ranked.unknown_items,
        "context": {name: list(names) for name, names in asdict(ranked.context).items() if names},
    }


class _StrictRequest(HttpRequest):
    """A request whose body is JSON that repeats no key."""

    async def json(self) -> Any:
        try:
            return json.loads(await self.body(), object_pairs_hook=_unique)
        except json.JSONDecodeError:
            raise  # FastAPI names the character
        except UnicodeDecodeError:
            raise HTTPException(400, "the body is not JSON: it is not UTF-8 text") from None
        except RecursionError:
            raise HTTPException(400, "the body is nested too deeply") from None
        except ValueError:
            raise HTTPException(400, "a number in the body has too many digits") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise HTTPException(400, f"the key {repeated[:60]!a} appears twice")
    return values


class _StrictRoute(APIRoute):
    """Refuses bodies that are not JSON, or in which one value would silently replace another."""

    def get_route_handler(self) -> Callable[[HttpRequest], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: HttpRequest) -> Response:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if request.method == "POST" and kind != "application/json" and not kind.endswith("+json"):
                raise HTTPException(415, "send JSON, with the header Content-Type: application/json")
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


class _BodyLimit:
    """Refuses a body that is too large before it is read completely."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > BODY_LIMIT:
            await _error_response(413, f"the body has {int(length)} bytes; at most {BODY_LIMIT}")(scope, receive, send)
            return
        received = 0

        async def counted() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > BODY_LIMIT:
                raise HTTPException(413, f"the body has more than {BODY_LIMIT} bytes")
            return message

        await self.app(scope, counted, send)


def _error_response(status: int, reason: str, headers: dict[str, str] | None = None, **more: Any) -> JSONResponse:
    return JSONResponse({"error": reason, **more}, status, headers)
