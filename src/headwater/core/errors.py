"""Every error that a user can cause.

HeadwaterError
├── RecipeError          a recipe cannot be understood; lists every problem with file and line
├── InputError           a file, folder or record of the user cannot be used
│   └── UnreachableError a disk, server or bucket did not give it this time
├── EmptyResultError     a source yields nothing, or a filter drops everything
├── MismatchError        two parts do not fit together (tokenizer and vocabulary, shards and tokenizer)
├── StoreError           the store is locked, damaged or full
├── TrainingError        training cannot go on
├── EvaluationError      some tasks could not be scored; lists every one
└── MissingExtraError    an optional dependency is not installed

Each prints as one line, `place: what is wrong; hint: what to do`, and makes the command exit with code 2.
Anything else that escapes is a bug of Headwater: a traceback and exit code 1.
"""

from __future__ import annotations

from collections.abc import Sequence


class HeadwaterError(Exception):
    """A problem that the user can solve: where it is, what is wrong, and what to do about it."""

    def __init__(self, problem: str, *, place: str = "", hint: str = "") -> None:
        self.problem = problem
        self.place = place
        self.hint = hint
        super().__init__(problem)

    def __str__(self) -> str:
        line = f"{self.place}: {self.problem}" if self.place else self.problem
        return f"{line}; hint: {self.hint}" if self.hint else line

    def __reduce__(self) -> tuple[object, ...]:
        """Keep place and hint when the error crosses a process boundary."""
        return _rebuild, (type(self), self.problem, self.place, self.hint)

    @property
    def lines(self) -> tuple[str, ...]:
        """What the command line prints: one line per problem, without the hint."""
        return (f"{self.place}: {self.problem}" if self.place else self.problem,)


class _SeveralError(HeadwaterError):
    """An error with one line for each thing that is wrong, in `problems`."""

    def __init__(self, problem: str, *, place: str = "", hint: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(problem, place=place, hint=hint)
        self.problems = tuple(problems)

    @property
    def lines(self) -> tuple[str, ...]:
        """One line per problem."""
        return self.problems or super().lines

    def __str__(self) -> str:
        return "\n".join(self.problems) if self.problems else super().__str__()


class RecipeError(_SeveralError):
    """A recipe cannot be understood; `problems` holds one line for each thing that is wrong."""


class EvaluationError(_SeveralError):
    """Some tasks could not be scored; `problems` holds one line for each. The results of the others are kept."""


class InputError(HeadwaterError):
    """A file, folder or record of the user is missing, unreadable, empty, truncated or of the wrong form."""


class UnreachableError(InputError):
    """A disk, server or bucket does not give what it may give the next time: what was done so far is kept."""


class EmptyResultError(HeadwaterError):
    """Nothing is left: a source yields nothing, or a filter drops everything."""


class MismatchError(HeadwaterError):
    """Two parts do not fit together, such as a tokenizer and the shards of another one."""


class StoreError(HeadwaterError):
    """The store is locked by another run, was changed by hand, or its disk is full."""


class TrainingError(HeadwaterError):
    """Training cannot go on, for example because the loss is not finite."""


class MissingExtraError(HeadwaterError):
    """An optional dependency is not installed; the hint names the pip command."""


class Stopped(KeyboardInterrupt):
    """Somebody asked to stop, and what was done is saved; the command exits with 128 + the number of the signal."""

    def __init__(self, signal_number: int) -> None:
        self.exit_code = 128 + signal_number
        super().__init__()


def _rebuild(kind: type[HeadwaterError], problem: str, place: str, hint: str) -> HeadwaterError:
    return kind(problem, place=place, hint=hint)
