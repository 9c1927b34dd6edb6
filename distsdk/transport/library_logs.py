"""The log lines of requests and urllib3, without signatures and secrets."""

from __future__ import annotations

import logging

from distsdk._secrets import without_secrets


class _WithoutSecrets(logging.Filter):
    """Passes every record, with the URLs in its text redacted and known secrets masked."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_secrets(record.getMessage()), None
        return True


_FILTER = _WithoutSecrets()


def redact_library_logs() -> None:
    """Redact what the loggers of requests and urllib3 write, in this process from now on.

    A filter of a logger sees the records made there and not those of its children, so each logger gets it.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in {"requests", "urllib3"}:
            logging.getLogger(name).addFilter(_FILTER)
