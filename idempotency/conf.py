"""The settings, read when asked for: `override_settings` and grep both just work."""

from datetime import timedelta
from typing import Any, Final

from django.conf import settings
from django.core.signals import setting_changed

#: Seconds, or a timedelta; `seconds()` accepts both.
Duration = timedelta | int | float


def seconds(value: Duration) -> float:
    """A duration as seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


class Settings:
    """One typed property a setting, named exactly as the setting.

    Values are kept until the settings change: an unset one is looked up by way of an exception,
    and a request reads many. `override_settings` puts another object in the settings' place;
    whoever changes them otherwise sends `setting_changed`.
    """

    def __init__(self) -> None:
        self._source: object = None
        self._known: dict[str, Any] = {}
        self._generation = 0
        setting_changed.connect(self._forget, dispatch_uid="idempotency.conf")

    def _forget(self, **kwargs: Any) -> None:
        self._source = None

    @property
    def generation(self) -> int:
        """Another number after every change of the settings, for what is derived from them."""
        self._refresh()
        return self._generation

    @property
    def secrets(self) -> tuple[str | bytes, ...]:
        """SECRET_KEY and its fallbacks, newest first."""
        self._refresh()
        if "secrets" not in self._known:
            self._known["secrets"] = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
        found: tuple[str | bytes, ...] = self._known["secrets"]
        return found

    def _refresh(self) -> None:
        # Past the look-up that Django's lazy objects have in Python: a request comes here often.
        source = object.__getattribute__(settings, "_wrapped")
        if source is not self._source:
            self._source, self._known = source, {}
            self._generation += 1

    @property
    def IDEMPOTENCY_REQUIRED(self) -> bool:
        """Refuse protected requests that carry no key."""
        return bool(self._get("IDEMPOTENCY_REQUIRED", False))

    @property
    def IDEMPOTENCY_MISMATCH(self) -> str:
        """What a key with another body gets: "strict" refuses, "lenient" replays."""
        return str(self._get("IDEMPOTENCY_MISMATCH", "strict"))

    @property
    def IDEMPOTENCY_IN_FLIGHT(self) -> str:
        """What a duplicate of a running request does: "wait" for its reply, or "reject"."""
        return str(self._get("IDEMPOTENCY_IN_FLIGHT", "wait"))

    @property
    def IDEMPOTENCY_WAIT_TIMEOUT(self) -> Duration:
        """Longest wait of a duplicate. 10 s: below the 30 s of most proxies."""
        return self._duration("IDEMPOTENCY_WAIT_TIMEOUT", timedelta(seconds=10))

    @property
    def IDEMPOTENCY_TTL(self) -> Duration:
        """How long a reply is replayed. 24 h: a client's retries rarely last a day."""
        return self._duration("IDEMPOTENCY_TTL", timedelta(hours=24))

    @property
    def IDEMPOTENCY_TOMBSTONE(self) -> Duration:
        """How long after that a late retry is still refused rather than run anew."""
        return self._duration("IDEMPOTENCY_TOMBSTONE", timedelta(hours=24))

    @property
    def IDEMPOTENCY_LEASE(self) -> Duration:
        """How long a leased claim or a job lasts without a sign of life. 60 s: three renewals are
        missed before anybody takes over, and a crash costs no more than a minute."""
        return self._duration("IDEMPOTENCY_LEASE", timedelta(seconds=60))

    @property
    def IDEMPOTENCY_KEY_FORMAT(self) -> str:
        """ "any", "uuid", "ulid", or a regular expression that must match the whole key."""
        return str(self._get("IDEMPOTENCY_KEY_FORMAT", "any"))

    @property
    def IDEMPOTENCY_KEY_SYNTAX(self) -> str:
        """ "lenient" also takes bare tokens; "strict" only structured-field strings (RFC 9651)."""
        return str(self._get("IDEMPOTENCY_KEY_SYNTAX", "lenient"))

    @property
    def IDEMPOTENCY_MODE(self) -> str:
        """ "enforce", or "observe": run everything and count what would have been deduplicated."""
        return str(self._get("IDEMPOTENCY_MODE", "enforce"))

    @property
    def IDEMPOTENCY_CACHE(self) -> str:
        """The cache alias of the cache and lock rooms."""
        return str(self._get("IDEMPOTENCY_CACHE", "default"))

    @property
    def IDEMPOTENCY_HEADER(self) -> str:
        """The request header that carries the key."""
        return str(self._get("IDEMPOTENCY_HEADER", "Idempotency-Key"))

    @property
    def IDEMPOTENCY_REPLAYED_HEADER(self) -> str:
        """The response header that marks a replay."""
        return str(self._get("IDEMPOTENCY_REPLAYED_HEADER", "Idempotent-Replayed"))

    @property
    def IDEMPOTENCY_MISMATCH_STATUS(self) -> int:
        """The status of a mismatch: 409, or 422 as in the IETF draft."""
        return int(self._get("IDEMPOTENCY_MISMATCH_STATUS", 409))

    @property
    def IDEMPOTENCY_LOCK_TIMEOUT(self) -> Duration:
        """Life of the Redis lock, and the longest silence of a handler inside its transaction."""
        return self._duration("IDEMPOTENCY_LOCK_TIMEOUT", timedelta(seconds=60))

    @property
    def IDEMPOTENCY_MAX_WAITERS(self) -> int:
        """Waiting requests in one process, all keys together: no storm eats the pool."""
        return int(self._get("IDEMPOTENCY_MAX_WAITERS", 4))

    @property
    def IDEMPOTENCY_MAX_BODY(self) -> int:
        """Largest reply kept, in bytes of headers and body together. 1 MiB."""
        return int(self._get("IDEMPOTENCY_MAX_BODY", 1024 * 1024))

    @property
    def IDEMPOTENCY_PREFIX(self) -> str:
        """Prefix of every Redis name; a new one starts a new cache epoch."""
        return str(self._get("IDEMPOTENCY_PREFIX", "idempotency"))

    @property
    def IDEMPOTENCY_ENCRYPTION_KEYS(self) -> tuple[str | bytes, ...]:
        """Fernet keys for what is stored: the first encrypts, all decrypt. None: it is plain."""
        return tuple(self._get("IDEMPOTENCY_ENCRYPTION_KEYS", ()))

    def _duration(self, name: str, default: Duration) -> Duration:
        value: Duration = self._get(name, default)
        return value

    def _get(self, name: str, default: Any) -> Any:
        self._refresh()
        known = self._known
        if name not in known:
            known[name] = getattr(settings, name, default)
        return known[name]


conf: Final = Settings()
