"""The command line: data on stdout, messages on stderr, one exit code per kind of error."""

from distsdk.cli import fetch, image, push, registry, store  # noqa: F401 - each adds its commands
from distsdk.cli.app import EXIT_CODES as EXIT_CODES
from distsdk.cli.app import exit_code as exit_code
from distsdk.cli.app import main as main
from distsdk.cli.app import run as run
