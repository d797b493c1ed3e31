"""What a configuration may hold, and refusals that name the file, the key and what is allowed there."""

import difflib
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ._errors import Refusal


@dataclass(frozen=True)
class Rule:
    """One key: a test of its value, what it must be in words, and its default; `...` where it must be given."""

    test: Callable[[Any], bool]
    must: str
    default: Any = None


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)


def _is_numbers(x: Any) -> bool:
    return _is_number(x) or (isinstance(x, list) and len(x) > 0 and all(map(_is_number, x)))


def number(default: Any = None) -> Rule:
    return Rule(_is_number, "be a finite number", default)


def positive(default: Any = None) -> Rule:
    return Rule(lambda x: _is_number(x) and x > 0, "be a positive number", default)


def numbers(default: Any = None) -> Rule:
    return Rule(_is_numbers, "be a number, or a list with one for each axis", default)


def whole(least: int, default: Any = None) -> Rule:
    test = lambda x: isinstance(x, int) and not isinstance(x, bool) and x >= least
    return Rule(test, f"be a whole number of at least {least}", default)


def seed() -> Rule:
    return Rule(lambda x: whole(0).test(x) and x < 2**32, "be a whole number from 0 to 2^32 - 1")


def wholes(least: int, default: Any = None) -> Rule:
    one = whole(least).test
    test = lambda x: one(x) or (isinstance(x, list) and len(x) > 0 and all(map(one, x)))
    return Rule(test, f"be a whole number of at least {least}, or a list with one for each axis", default)


def text(default: Any = None) -> Rule:
    return Rule(lambda x: isinstance(x, str) and x != "", "be a text", default)


def truth(default: bool | None = False) -> Rule:
    return Rule(lambda x: isinstance(x, bool), "be true or false", default)


def choice(allowed: tuple[Any, ...], default: Any = None) -> Rule:
    names = ", ".join(f'"{a}"' if isinstance(a, str) else str(a) for a in allowed)
    return Rule(lambda x: not isinstance(x, bool) and x in allowed, f"be one of {names}", default)


def choices(allowed: tuple[str, ...], default: Any = None) -> Rule:
    names = ", ".join(f'"{a}"' for a in allowed)
    test = lambda x: isinstance(x, list) and len(x) > 0 and all(v in allowed for v in x)
    return Rule(test, f"be a list of {names}", default)


def texts(default: Any = None) -> Rule:
    test = lambda x: isinstance(x, list) and all(isinstance(v, str) for v in x)
    return Rule(test, "be a list of texts", default)


class Config:
    """A file's tables, read one by one under their rules."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise Refusal(f"Argument `CONFIG` must be a TOML file, but there is no '{path}'.") from None
        except OSError as error:
            raise Refusal(f"Argument `CONFIG` must be a TOML file, but '{path}': {error.strerror}.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Refusal(f"Argument `CONFIG` must be a TOML file, but {path} is none: {error}.") from None

    def refuse(self, key: str, must: str, value: Any) -> NoReturn:
        """Say what is wrong with one key."""
        raise Refusal(f"{self.path}: `{key}` must {must}, but it is {_shown(value)}.")

    def known(self, allowed: Mapping[str, Any] | tuple[str, ...], table: Any, prefix: str = "") -> dict[str, Any]:
        """A table that holds no other keys than these."""
        name = prefix.rstrip(".") or "the file"
        if not isinstance(table, dict):
            raise Refusal(f"{self.path}: `{name}` must be a table, but it is {_shown(table)}.")
        for key in table:
            if key not in allowed:
                close = difflib.get_close_matches(key, list(allowed), n=1)
                hint = f"  Did you mean `{prefix}{close[0]}`?" if close else ""
                raise Refusal(
                    f"{self.path}: `{prefix}{key}` is not known; allowed in {name} are {', '.join(allowed)}.{hint}"
                )
        return table

    def read(self, name: str, rules: Mapping[str, Rule]) -> dict[str, Any]:
        """The values of a table, defaults filled in."""
        table = self.known(rules, self.tables.get(name, {}), f"{name}.")
        return self.checked(rules, table, f"{name}.")

    def checked(self, rules: Mapping[str, Rule], table: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        """The values under their rules, defaults filled in."""
        out = {}
        for key, rule in rules.items():
            value = table.get(key, rule.default)
            if value is ...:
                raise Refusal(f"{self.path}: `{prefix}{key}` must {rule.must}, but it is missing.")
            if key in table and not rule.test(value):
                self.refuse(f"{prefix}{key}", rule.must, value)
            out[key] = value
        return out


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
