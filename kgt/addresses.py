"""Addresses hold no password: they are logged, are in error messages and become parameters of runs."""

import re

from kgt.errors import UserError

_PASSWORD = re.compile(r"://[^/?#\s]*:[^/?#\s]*@")


def without_password(address: str, what: str, way_out: str) -> str:
    """The address. Raises UserError, without the address in it, for one of the form scheme://user:password@host."""
    if _PASSWORD.search(address):
        raise UserError(f"{what} holds a password, which would be logged: {way_out}")
    return address
