"""A command line that suggests the option that was meant. Standard library only."""

import argparse
import difflib
from collections.abc import Iterable
from typing import Any, NoReturn


def suggestion(name: str, known: Iterable[str]) -> str:
    """``did you mean …?``, or a full stop's worth of nothing: "see --help."."""
    similar = difflib.get_close_matches(name.lower(), list(known), 1)
    return f"did you mean {similar[0]}?" if similar else "see --help."


class Parser(argparse.ArgumentParser):
    """``inputs`` are names that people write as options: the error says how they are given."""

    def __init__(self, *, inputs: Iterable[str] = (), **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)
        self._inputs = list(inputs)

    def error(self, message: str) -> NoReturn:
        """Exit with 2 and one sentence."""
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            unknown = message.removeprefix(prefix).split()
            option = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
            name = option.lstrip("-").replace("-", "_")
            inputs = {name: f"-i {name}=…" for name in self._inputs}
            close = difflib.get_close_matches(name.lower(), self._inputs, 1)
            hint = f"did you mean {inputs[close[0]]}?" if close else suggestion(option, self._option_string_actions)
            message = f"{option}: no such option; {hint}"
        self.exit(2, f"{self.prog}: {message}\n")
