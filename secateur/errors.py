"""Every error that secateur raises on purpose, and the exit code it becomes.

    SecateurError                    1  something failed that the input did not cause
    ├── WriteError                   1  the output could not be written (disk full, permissions)
    ├── NumericError                 1  NaN or infinity where a number was needed
    ├── EngineError                  1  an outside engine (llama.cpp, a hub) did not do its part
    ├── GateError                    3  the work is done, but a quality gate was not met
    └── InputError                   2  the user can mend it
        ├── RequestError                options that contradict each other, or cannot be read
        ├── CheckpointError             shards, index, headers, config of a model
        │   ├── FamilyError             no family, or no row of it, describes the model
        │   └── ReadError               a shard that could be opened cannot be read any more
        ├── CorpusError                 a mix, a source or a row of calibration text
        ├── StatisticsError             statistics that are damaged or of another model
        ├── PlanError                   a plan that cannot be made or does not fit
        ├── FormatError                 a GGUF, imatrix or MLX file that is not what it says
        ├── OutputError                 an output folder that exists or is incomplete
        └── CardError                   a model card that says what no result holds

A message says what, where (file, tensor), what was got, what was expected and what to do,
in one line. The command line prints it and exits; it never prints a traceback for these.
"""


class SecateurError(Exception):
    """The base of all errors raised on purpose."""

    exit_code = 1


class WriteError(SecateurError):
    """The output could not be written."""


class NumericError(SecateurError):
    """A computation met NaN or infinity."""


class EngineError(SecateurError):
    """A program or service outside secateur did not do its part."""


class GateError(SecateurError):
    """The result stands, but does not reach the quality that was asked for."""

    exit_code = 3


class InputError(SecateurError):
    """Something the user gave is wrong, and the user can mend it."""

    exit_code = 2


class RequestError(InputError):
    """An option or argument cannot be read, or contradicts another."""


class CheckpointError(InputError):
    """A model folder is incomplete, damaged or not a checkpoint."""


class FamilyError(CheckpointError):
    """No family describes this model, or no row of the family describes a tensor."""


class ReadError(CheckpointError):
    """A shard cannot be read while it is worked on: what was made of it before still holds."""


class CorpusError(InputError):
    """A corpus description, a source or a row cannot be used."""


class StatisticsError(InputError):
    """A statistics file is damaged, or belongs to another model."""


class PlanError(InputError):
    """A plan cannot be made, or does not fit the checkpoint it is applied to."""


class FormatError(InputError):
    """A file is not what its format says."""


class OutputError(InputError):
    """An output folder exists already, or is not a complete output of ours."""


class CardError(InputError):
    """A model card cannot be made, or says what no result file holds."""
