"""Which images are withdrawn: by name, licence or content. What is withdrawn is in no version made from then on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import yaml

from kgt.errors import UserError
from pipelines.sources import Source, read_lines

_DIGEST = re.compile(r"[0-9a-f]{32}")
_LICENCE = "licence:"


@dataclass(frozen=True)
class Withdrawal:
    """Patterns of what is withdrawn: a name, as a shell has it (`*` also crosses `/`), a digest in full, or
    `licence:` and a pattern of the licence tag."""

    patterns: tuple[str, ...] = ()

    def matching(self, source: Source, digest: str, files: Sequence[str]) -> dict[str, list[int]]:
        """The patterns that `source` matches, each with those of its files (0 the clean one) that it is about.

        `digest` is the source's, `files` are those of its files; both are empty if they cannot be read. Where a source
        has several files, a name is compared with the end of their paths.
        """
        found = {}
        for pattern in self.patterns:
            if about := _about(pattern, source, digest, files):
                found[pattern] = about
        return found


def read_withdrawal(exclude: str) -> Withdrawal:
    """`exclude`: a pattern, several as `[a,b]`, or the address of a `.txt` file with one a line. Raises UserError."""
    if exclude.endswith(".txt"):
        patterns = read_lines(exclude)
    elif exclude.startswith("["):
        patterns = _written_list(exclude)
    else:
        patterns = [exclude] if exclude else []
    return Withdrawal(tuple(dict.fromkeys(pattern.strip() for pattern in patterns)))


def _written_list(text: str) -> list[str]:
    try:
        patterns = yaml.load(text, Loader=yaml.BaseLoader)  # every scalar is a text: a digest may be all digits
    except yaml.YAMLError as error:
        raise UserError(f"exclude={text}: patterns are written [a.png,2019/*]") from error
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise UserError(f"exclude={text}: patterns are written [a.png,2019/*]")
    return patterns


def _about(pattern: str, source: Source, digest: str, files: Sequence[str]) -> list[int]:
    everything = list(range(1 + len(source.others)))
    if pattern.startswith(_LICENCE):
        return everything if fnmatchcase(source.licence, pattern.removeprefix(_LICENCE)) else []
    if _DIGEST.fullmatch(pattern):
        return everything if pattern == digest else [index for index, file in enumerate(files) if file == pattern]
    if not source.others:
        return everything if fnmatchcase(source.name, pattern) else []
    locations = (source.location, *source.others)
    return [index for index in everything if fnmatchcase(locations[index], f"*/{pattern}")]
