"""Commands that read a registry or the configuration and download no content."""

from __future__ import annotations

import json
import sys

import click

from distsdk.cli.app import (
    child_platform,
    configured_hosts,
    connect,
    main,
    option,
    platform_hint,
    read_locator,
    read_reference,
    say,
    timeouts,
    without_scheme,
    write_line,
    write_listing,
)

#: Bytes that are read of a password on stdin.
_LONGEST_PASSWORD = 64 * 1024


@main.command(example="distsdk resolve redis:7 platform:linux/arm64")
@click.argument("ref")
@click.argument("hints", nargs=-1, metavar="[HINT]...")
@child_platform
@click.option("--json", "as_json", is_flag=True, help="Print the descriptor as JSON: media type, digest, size.")
def resolve(*, ref: str, hints: tuple[str, ...], platform: str | None, as_json: bool) -> None:
    """Print the digest of REF.

    Hints are those of fetch: platform:linux/arm64 selects a child of an index as --platform linux/arm64 does.
    """
    reference = read_reference(ref)
    remote = connect(reference.locator)
    wanted = (reference.object, *hints, *platform_hint(platform))
    descriptor = remote.resolve(*wanted)
    write_line(json.dumps(descriptor.to_fields()) if as_json else str(descriptor.digest))


@main.command(example="distsdk tags docker.io/library/redis")
@click.argument("locator")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def tags(locator: str, as_json: bool) -> None:
    """List the tags of LOCATOR."""
    remote = connect(read_locator(locator))
    write_listing(remote.tags(), as_json=as_json)


@main.command(example="distsdk catalog registry.example:5000")
@click.argument("host")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def catalog(host: str, as_json: bool) -> None:
    """List the repositories of HOST.

    Many registries, Docker Hub among them, refuse this request.
    """
    from distsdk.spec.reference import Locator

    host = without_scheme(host)
    locator = Locator.parse(host if "/" in host else f"{host}/")
    if locator.names_files:
        message = f"{locator} is files, not a host: it has tags"
        raise click.UsageError(message)
    if locator.path:
        message = f"the catalog is of a host: {locator.host}"
        raise click.UsageError(message)
    remote = connect(locator)
    write_listing(remote.catalog(), as_json=as_json)


@main.command(example="distsdk hosts docker.io")
@click.argument("locator")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def hosts(locator: str, as_json: bool) -> None:
    """Show the endpoints that serve LOCATOR, in order.

    No request is sent.
    """
    from distsdk.spec.reference import Locator

    locator = without_scheme(locator)
    is_host = "/" not in locator and (locator == "localhost" or not {".", ":"}.isdisjoint(locator))
    parsed = Locator.parse(f"{locator}/" if is_host else locator)
    if parsed.names_files:
        message = f"{parsed} is files: no host is asked for them"
        raise click.UsageError(message)
    host = parsed.host
    plan = configured_hosts(host).plan(host)
    if as_json:
        endpoints = [
            {"url": e.base, "capabilities": sorted(e.capabilities), "ns": e.namespace, "why": e.why}
            for e in plan.endpoints
        ]
        fields = {"host": host, "why": plan.why, "remote": plan.remote, "endpoints": [] if plan.remote else endpoints}
        write_line(json.dumps(fields))
        return
    for line in plan.lines():
        write_line(line)


def _stdin_is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _read_host(word: str) -> str:
    from distsdk.spec.reference import Locator

    word = without_scheme(word)
    locator = Locator.parse(word if "/" in word else f"{word}/")
    if locator.path or locator.names_files:
        message = f"{word} is not a host; a login is for all of a host, such as {locator.host or 'ghcr.io'}"
        raise click.UsageError(message)
    return locator.host


@main.command(example="distsdk login ghcr.io --username me --password-stdin < token.txt")
@click.argument("host")
@click.option("-u", "--username", metavar="NAME", help="Log in as NAME (default: prompt).")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin (default: prompt).")
def login(host: str, username: str | None, password_stdin: bool) -> None:
    """Log in to HOST and store the login.

    The registry checks the login before it is stored where docker and podman find it too: by the credential helper that
    is configured for HOST, otherwise in a file. If the registry issues an identity token, the token is stored and not
    the password. With the name <token>, the password is an identity token.
    """
    from distsdk.transport.login import check_login, read_login, store_login

    name = _read_host(host)
    if password_stdin:
        if username is None:
            raise click.UsageError("--password-stdin needs --username")
        if sys.stdin is None:
            raise click.UsageError("the password is read from stdin, which is closed")
        password = sys.stdin.buffer.read(_LONGEST_PASSWORD).decode(errors="surrogateescape").rstrip("\r\n")
    elif not _stdin_is_terminal():
        raise click.UsageError("stdin is not a terminal: pass the password with --password-stdin")
    else:
        username = username or click.prompt("Username", err=True)
        password = click.prompt("Password", hide_input=True, err=True)
    given = read_login(username, password)
    stored = store_login(name, check_login(name, given, hosts=configured_hosts(name), timeouts=timeouts()))
    if not option("quiet"):
        say(f"logged in to {name}; stored in {stored.place}{', not encrypted' if stored.is_plain else ''}")


@main.command(example="distsdk logout ghcr.io")
@click.argument("host")
def logout(host: str) -> None:
    """Remove the login for HOST.

    It is removed from all places where distsdk looks, credential helpers included. Logins for a part of HOST stay.
    """
    from distsdk.transport.login import remove_login

    name = _read_host(host)
    removed = remove_login(name)
    if not option("quiet"):
        for stored in removed:
            say(f"removed the login for {name} from {stored.place}")
        if not removed:
            say(f"no login for {name} is stored")
