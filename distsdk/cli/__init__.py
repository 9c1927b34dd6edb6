"""The command line: data on stdout, talk on stderr, an exit code for a kind of failure."""

from distsdk.cli import content, fetch, give, inside, look  # noqa: F401 - each adds its commands
from distsdk.cli.app import EXIT_CODES as EXIT_CODES
from distsdk.cli.app import exit_code as exit_code
from distsdk.cli.app import main as main
from distsdk.cli.app import run as run
