"""Errors whose message is meant for the user: what was wrong, and what would be right.

Code that catches ``MiliError`` may show ``str(error)`` as it is; any other exception is a defect.
"""


class MiliError(Exception):
    """Base of every error caused by the user's input, files or machine."""


class ConfigError(MiliError):
    """A model or engine configuration that is wrong or not supported; names the field."""


class WeightError(MiliError):
    """A checkpoint's weights are missing, corrupt or do not fit the configuration."""


class TokenizerError(MiliError):
    """Tokenizer or chat-template files are missing or wrong, or text can't be encoded."""


class InvalidRequestError(MiliError):
    """A generation request that can't be served as asked; names the parameter.

    Args:
        message: what was wrong and what would be right.
        param: the offending parameter, or None.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthError(InvalidRequestError):
    """Prompt and answer together are longer than the model's context."""


class OutOfMemoryError(InvalidRequestError):
    """A request needs more memory than there is for it, whatever else runs."""


class RequestTimeoutError(MiliError):
    """A request was given up because it waited or ran too long."""


class GrammarError(MiliError):
    """An answer can't follow its grammar to the end, for instance because it has become too large."""


class CompileError(MiliError):
    """The kernels or the graph could not be compiled or loaded on this machine."""


class DeviceError(MiliError):
    """The device that the model runs on failed; names it."""


class OverloadedError(MiliError):
    """There is more work than the engine's queue takes; the same request may succeed later."""


class EngineStoppedError(MiliError):
    """The engine is shut down or has failed, so that a request can't be finished."""
