"""How the layers of the application find a request's context: it lies in the request's scope."""

from starlette.requests import HTTPConnection
from starlette.types import Scope

from service.pipeline import RequestContext

SCOPE_KEY = "bireal.context"
#: Paths that monitoring polls every few seconds: logged only at debug level, and never traced.
PROBES = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})


def context_of(where: HTTPConnection | Scope) -> RequestContext:
    """The context that `AccessMiddleware` attached to a request."""
    scope = where.scope if isinstance(where, HTTPConnection) else where
    context: RequestContext = scope[SCOPE_KEY]
    return context
