"""What a user can put right."""


class UserError(Exception):
    """Told in one block, without a traceback, by the command that meets it; ``exit_status`` is the command's."""

    exit_status = 2
