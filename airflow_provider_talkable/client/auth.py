"""How the API key is sent: by the scheme that the connection names, or by the one that the host takes."""

from __future__ import annotations

import logging

from airflow_provider_talkable.protocol.wire import AuthScheme

log = logging.getLogger(__name__)

_SAYS_NOTHING = (401, 403, 429)


class KeyScheme:
    """The scheme to send the key by. What was found to work is remembered as long as this lives.

    :param scheme: The only scheme; ``None``: Basic first, and after a 401 Bearer. A 401 comes before Talkable
        acts, so that trying the other scheme after it is safe.
    """

    def __init__(self, scheme: AuthScheme | None) -> None:
        self._is_auto = scheme is None
        self.current = scheme or AuthScheme.BASIC

    def other_after(self, status: int | None, tried: AuthScheme) -> AuthScheme | None:
        """The scheme to try a request again by, if its answer refuses the key and there is one left.

        :param status: The answer's status; ``None``: no answer came.
        """
        is_refused = status == 401
        return AuthScheme.BEARER if is_refused and self._is_auto and tried is AuthScheme.BASIC else None

    def learn(self, status: int | None, tried: AuthScheme, *, of: str) -> None:
        """Go on with the other scheme if its answer says so; if that is refused too, try it no more.

        :param status: The answer's status; ``None``: no answer came.
        :param of: The URL of who answered, for the log.
        """
        if status is None:
            return
        if status == 401:
            self._is_auto = False
        if status < 500 and status not in _SAYS_NOTHING and self.current is not tried:
            self.current = tried
            log.info("%s takes the API key by auth_scheme %s", of, tried)
