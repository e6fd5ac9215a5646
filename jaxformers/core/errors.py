"""Errors the library raises on purpose; each message says what was found, what was expected and what to do."""


class JaxformersError(Exception):
    """The parent of every error of this library."""


class CheckpointError(JaxformersError, ValueError):
    """A weight file, or a tensor in it, is missing, damaged or not what the model needs."""


class UnsafePickleError(CheckpointError):
    """A pickled checkpoint asks for something other than plain tensors."""


class ConfigError(JaxformersError, ValueError):
    """A configuration is wrong or asks for what the library does not do."""


class UnknownOption(ConfigError):
    """A configuration key that changes behaviour is not read by the model's family."""


class UnknownModelType(ConfigError):
    """No family is registered for this model type."""


class MissingExtra(JaxformersError, ImportError):
    """An optional package is needed and not installed."""


class InputError(JaxformersError, ValueError):
    """A picture, a sound or a text given to a processor cannot be had, or is not what it should be."""


class DataError(JaxformersError, ValueError):
    """A row of a data set cannot be read, or is not what the training needs."""


class AdapterError(JaxformersError, ValueError):
    """An adapter asks for what the model lacks, or for what the library does not do."""
