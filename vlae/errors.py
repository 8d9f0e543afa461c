"""What goes wrong and is told to the user as it is, without a traceback."""


class UserError(Exception):
    """Told in one block, without a traceback, by the command that meets it; ``exit_status`` is the command's."""

    exit_status = 2


class NonFiniteError(UserError, RuntimeError):
    """A metric became NaN or infinite: the run has failed, and says where."""

    exit_status = 1
