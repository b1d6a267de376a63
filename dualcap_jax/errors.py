"""The two ways in which a command ends early: a user's mistake, and a stop that was asked for."""


class UserError(ValueError):
    """A mistake that its user can mend: one line that names the thing, the value and the mend.

    Each room derives its own from it; `cli.run` prints the line, without a traceback, and exits with `exit_code`.
    """

    exit_code = 2
    at_once = False
    """Whether the process must end at once: libraries are still at work on what failed, and would say more of it."""


class Stopped(Exception):
    """A command ended before it was done, with all that was done saved."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class DataWarning(UserWarning):
    """Something on disk, such as data or a checkpoint, that is read otherwise than it stands there."""


class ConfigError(UserError):
    """A setting out of its range, or settings that do not fit together."""


def require(condition: bool, name: str, value: object, accepted: str) -> None:
    """Refuse a setting.

    Args:
        condition: whether the value is acceptable.
        name: of the field, dotted, as on the command line.
        value: what it was set to.
        accepted: what it must be, such as "must be at least 1".

    Raises:
        ConfigError: unless `condition` holds.
    """
    if not condition:
        raise ConfigError(f"{name}={value!r}: {accepted}")
