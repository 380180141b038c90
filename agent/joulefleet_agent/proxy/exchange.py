"""One request that is counted, from its head to the end of its answer."""

from collections.abc import Callable

from joulefleet.units import ns_to_s
from joulefleet_agent.proxy.asked import Route
from joulefleet_agent.proxy.tally import Ended, Outcome, Spread
from joulefleet_agent.proxy.told import Heard, Tokens

FIRST_OF_ERRORS = 400


class Exchange:
    """What is known of one request and its answer."""

    def __init__(self, route: Route, tenant: str, now_ns: Callable[[], int]) -> None:
        self.route, self.tenant = route, tenant
        self.asked_model = ""
        self.heard = Heard()
        self.hides = False
        """Whether the part with tokens alone was asked for by the proxy, and so is not for the client."""
        self.gone = False
        """Whether the client hung up."""
        self.broken = False
        """Whether the server's answer ended too early."""
        self._now_ns = now_ns
        self._began_ns = now_ns()
        self._status = 0
        self._in_parts = False
        self._first_ns: int | None = None
        self._last_ns = 0
        self._timed = 0
        """Parts that were timed."""
        self._between = Spread()

    def begins(self, status: int) -> None:
        """The head of the answer has come."""
        self._status = status

    @property
    def served(self) -> bool:
        """Whether the server began to answer it well."""
        return 0 < self._status < FIRST_OF_ERRORS

    @property
    def model(self) -> str:
        """As the answer names it, or else as it was asked for."""
        return self.heard.model or self.asked_model

    def heard_more(self) -> None:
        """More of an answer in parts has come."""
        self._in_parts = True
        fresh, self._timed = self.heard.parts - self._timed, self.heard.parts
        if not fresh:
            return
        now_ns = self._now_ns()
        if self._first_ns is None:
            self._first_ns = now_ns
        else:
            self._between.see(ns_to_s(now_ns - self._last_ns))
        if fresh > 1:
            # Parts that came together came with nothing between them.
            self._between.see(0.0, fresh - 1)
        self._last_ns = now_ns

    @property
    def estimated(self) -> bool:
        """Whether parts stand for output tokens that were not told."""
        return self._in_parts and self.route.has_output and self.heard.tokens.output is None

    @property
    def tokens(self) -> Tokens:
        """As they were told, or else the parts of the answer for its output."""
        return self.heard.tokens._replace(output=self.heard.parts) if self.estimated else self.heard.tokens

    def ended(self) -> Ended:
        """What is counted of it."""
        return Ended(
            outcome=self._outcome(),
            served=self.served,
            tokens=self.tokens,
            estimated=self.estimated,
            has_output=self.route.has_output,
            e2e_s=ns_to_s(self._now_ns() - self._began_ns),
            ttft_s=None if self._first_ns is None else ns_to_s(self._first_ns - self._began_ns),
            between=self._between,
        )

    def _outcome(self) -> Outcome:
        if self.heard.failed or self.broken or self._status >= FIRST_OF_ERRORS:
            return "failed"
        # Who hangs up after the end has all that was asked for.
        if self.gone:
            return "ok" if self.heard.done else "aborted"
        return "ok" if self.served else "failed"
