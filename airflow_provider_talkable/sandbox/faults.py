"""What can go wrong between a client and Talkable, on demand or by chance."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random


@dataclass(frozen=True, slots=True)
class Canned:
    """Answer with this, without acting; with ``acted`` after acting.

    :param status: The HTTP status.
    :param body: The body as it is.
    :param headers: Header fields besides the default content type.
    """

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    acted: bool = False


@dataclass(frozen=True, slots=True)
class Reset:
    """Break the connection, before or after acting."""

    acted: bool


@dataclass(frozen=True, slots=True)
class Truncated:
    """Act, then send half of the body that was announced."""


@dataclass(frozen=True, slots=True)
class Dripped:
    """Act, then send the body byte by byte, each a second after the last."""


@dataclass(frozen=True, slots=True)
class Twice:
    """Act and answer, then answer once more, unasked."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Act and answer, then close the connection, which the answer does not say."""


Fault = Canned | Reset | Truncated | Dripped | Twice | Closed

HTML = b"<!DOCTYPE html><html><head><title>We'll be back</title></head><body>Maintenance</body></html>"
_HTML_TYPE = {"Content-Type": "text/html"}
_BAD_GATEWAY = Canned(502, HTML, _HTML_TYPE)
_BLOCKED = Canned(
    403,
    b"<!DOCTYPE html><html><head><title>Request blocked</title></head></html>",
    {**_HTML_TYPE, "Server": "firewall"},
)
_NO_ROUTE = Canned(
    404, b'{"message": "no Route matched"}', {"Content-Type": "application/json", "Server": "gateway"}
)


@dataclass(slots=True)
class Dials:
    """How the sandbox misbehaves; may be changed while it runs.

    :param latency: Seconds before each answer.
    :param rate_limit: Requests per second of a hidden token bucket; ``None``: no limit. More get a bare
        429 without ``Retry-After``.
    :param burst: How many requests the bucket holds; default: one second's worth.
    :param errors: The share of requests, 0 to 1, answered 502 with HTML and not acted on.
    :param resets_before: The share whose connection breaks before Talkable acts.
    :param resets_after: The share whose connection breaks after Talkable acted.
    :param truncated: The share whose answer breaks off in the body, after Talkable acted.
    :param html: The share answered 200 with an HTML page, not acted on.
    :param unrouted: The share answered 404 by a gateway that knows no such route, not acted on.
    :param blocked: Words; a firewall answers requests whose path has one of them with a page and 403.
    :param drips: The share whose answer comes byte by byte, after Talkable acted.
    :param twice: The share whose answer comes twice.
    :param closes: The share whose connection is closed after the answer, without a word.
    :param seed: Makes chance repeatable.
    """

    latency: float = 0.0
    rate_limit: float | None = None
    burst: float | None = None
    errors: float = 0.0
    resets_before: float = 0.0
    resets_after: float = 0.0
    truncated: float = 0.0
    html: float = 0.0
    unrouted: float = 0.0
    blocked: tuple[str, ...] = ()
    drips: float = 0.0
    twice: float = 0.0
    closes: float = 0.0
    seed: int = 0
    _next: deque[Fault | None] = field(init=False, default_factory=deque)
    _random: Random = field(init=False)
    _tokens: float | None = field(init=False, default=None)
    _filled_at: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._random = Random(self.seed)

    def next(self, *faults: Fault | None) -> None:
        """Decide what happens to the next requests, one each; ``None`` lets one pass."""
        self._next.extend(faults)

    def blocks(self, path: str) -> Fault | None:
        """What a firewall answers to a request of that path, if it blocks it."""
        return _BLOCKED if any(word in path for word in self.blocked) else None

    def pick(self, monotonic: Callable[[], float]) -> Fault | None:
        """The fault for the request that has just come in."""
        if self._next:
            return self._next.popleft()
        if not self._takes_token(monotonic()):
            return Canned(429)
        chance = self._random.random()
        for share, fault in (
            (self.errors, _BAD_GATEWAY),
            (self.resets_before, Reset(acted=False)),
            (self.resets_after, Reset(acted=True)),
            (self.truncated, Truncated()),
            (self.html, Canned(200, HTML, _HTML_TYPE)),
            (self.unrouted, _NO_ROUTE),
            (self.drips, Dripped()),
            (self.twice, Twice()),
            (self.closes, Closed()),
        ):
            if chance < share:
                return fault
            chance -= share
        return None

    def _takes_token(self, now: float) -> bool:
        if self.rate_limit is None:
            return True
        burst = self.burst or max(1.0, self.rate_limit)
        tokens = burst if self._tokens is None else self._tokens + (now - self._filled_at) * self.rate_limit
        self._filled_at = now
        self._tokens = min(burst, tokens)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
