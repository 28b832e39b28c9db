"""One try of a client, and what came back."""

import http.client
import json
from dataclasses import dataclass
from typing import Any

from enrollment_demo.demo.relay import LOOPBACK

#: Statuses that mean "the same again, later".
AGAIN = frozenset({202, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    retry_after: float | None
    replayed: bool
    body: bytes

    @property
    def final(self) -> bool:
        """Whether there is nothing to ask again for."""
        return self.status not in AGAIN and not (
            self.status == 409 and self.retry_after is not None
        )


def post(
    port: int,
    path: str,
    document: dict[str, Any],
    *,
    key: str,
    token: str,
    address: str,
    patience: float,
) -> Reply | None:
    """One try; `None` where no reply came through in `patience` seconds."""
    connection = http.client.HTTPConnection(
        LOOPBACK, port, timeout=patience, source_address=(address, 0)
    )
    try:
        connection.request(
            "POST",
            path,
            body=json.dumps(document),
            headers={
                "Authorization": f"Token {token}",
                "Connection": "close",
                "Content-Type": "application/json",
                "Idempotency-Key": key,
            },
        )
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    after = response.getheader("Retry-After")
    return Reply(
        response.status,
        None if after is None else float(after),
        response.getheader("Idempotent-Replayed") == "true",
        body,
    )
