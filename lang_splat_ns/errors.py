"""The one exception type for mistakes that a user can mend."""


class UserError(Exception):
    """Bad input, a missing file or missing weights.

    The message is one line for the user: it names the file or value and the way out. Commands print it
    without a traceback and exit with a code that is not 0. Programming errors are never raised as this.
    """


class NotSplatError(UserError):
    """The method has no Gaussians, so nothing can be selected in 3D."""
