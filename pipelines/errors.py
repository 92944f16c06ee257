"""Every failure a person can cause or mend, each with its exit status.

* PipelineError                                                   1
  x ParamsError     params.yaml or a contract is wrong            2
  x MissingInput    a step ran before its input was there         3
  x SourceError     a source cannot be read                       4
  x BatchConflict   a landed batch would change                   5
  x Quarantined     a batch failed validation                     6
  x ArtifactError   a model cannot be saved, loaded or trusted    7
  x RegistryError   the registry refused, or is out of reach      8
  x Busy            another process holds the task                9
  x UnknownId       no such prediction, batch or version         10
  x ServiceError    the running service refused, or is away      11
  x WorkspaceError  git or DVC refused in a retraining's folder  12

A message names the file or field, the value, what is allowed, and ends in the command that mends it.
"""

from __future__ import annotations


class PipelineError(Exception):
    """The root; `exit_status` is what the CLI leaves with."""

    exit_status = 1


class ParamsError(PipelineError):
    exit_status = 2


class MissingInput(PipelineError):
    exit_status = 3


class SourceError(PipelineError):
    exit_status = 4


class BatchConflict(PipelineError):
    exit_status = 5


class Quarantined(PipelineError):
    exit_status = 6


class ArtifactError(PipelineError):
    exit_status = 7


class RegistryError(PipelineError):
    exit_status = 8


class Busy(PipelineError):
    exit_status = 9


class UnknownId(PipelineError):
    exit_status = 10


class ServiceError(PipelineError):
    exit_status = 11


class WorkspaceError(PipelineError):
    exit_status = 12
