"""Images and artifacts with their files, history and packages."""

from typing import TYPE_CHECKING

from distsdk._moved import moved_names

if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__ = moved_names(__name__)
