"""How much memory a process took."""

import resource


def peak_mib() -> float:
    """The most memory that this process has held so far (resident), in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
