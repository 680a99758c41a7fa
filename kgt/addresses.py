"""Addresses hold no password: they are logged, are in error messages and become parameters of runs."""

import re

from kgt.errors import UserError

_PASSWORD = re.compile(
    r"://[^/?#@\[\s]*:(?!\d+[/?#])\S*@"  # a password may hold / ? #, and then its host seems to have a port of letters
    r"|[?&][^=&\s]*(password|passwd|secret|token)[^=&\s]*=",
    re.IGNORECASE,
)


def without_password(address: str, what: str, way_out: str) -> str:
    """The address. Raises UserError, without the address in it, for scheme://user:password@host or …?password=…"""
    if _PASSWORD.search(address):
        raise UserError(f"{what} holds a password, which would be logged: {way_out}")
    return address
