"""Remove signatures and secrets from the log records of requests and urllib3."""

from __future__ import annotations

import logging

from distsdk._secrets import without_secrets


class _WithoutSecrets(logging.Filter):
    """Redact the URLs and mask the known secrets of every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_secrets(record.getMessage()), None
        return True


_FILTER = _WithoutSecrets()


def redact_library_logs() -> None:
    """Redact the log records of requests and urllib3 in this process from now on.

    A logger's filter does not see the records of its children, so that each logger needs one.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in {"requests", "urllib3"}:
            logging.getLogger(name).addFilter(_FILTER)
