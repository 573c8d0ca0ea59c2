"""What an option of the configuration is; the table of them all is `options`."""

from keyword import iskeyword
from typing import NamedTuple

from stsguard.config.values import Kind

TomlValue = str | int | bool | list[str]


class Option(NamedTuple):
    """One key of the configuration file. `doc` is plain text: a first sentence, then more where it is needed."""

    section: str
    name: str
    kind: Kind
    default: TomlValue
    doc: str

    @property
    def field(self) -> str:
        """The name of its typed field: the key, and its unit at the end; `from_` for `from`."""
        if self.kind.unit:
            return f"{self.name}_{self.kind.unit}"
        return f"{self.name}_" if iskeyword(self.name) else self.name
