"""The one kind of error that is the user's to mend."""


class UserError(ValueError):
    """Bad input. The message is one line that names the thing and the way out.

    Entry scripts print it after `error: ` and exit with status 2; every other exception is a fault and keeps its trace.
    """
