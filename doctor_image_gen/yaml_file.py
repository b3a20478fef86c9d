"""Reads YAML that people write by hand: what they say twice is told, and not half forgotten."""

from collections.abc import Hashable
from typing import Any

import yaml

from shared.contracts.errors import InvalidInput


class _OnceLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise InvalidInput(
                        f"line {key.start_mark.line + 1}", f"'{key.value}' is named twice", "Name each once."
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str, name: str) -> Any:
    """What a file says, in YAML or JSON.

    Args:
        text: the file's.
        name: the file's, for the message.

    Raises:
        InvalidInput: it is no YAML, or a mapping in it names a key twice; says where.
    """
    try:
        return yaml.load(text, _OnceLoader)  # noqa: S506 - it is a SafeLoader
    except InvalidInput as error:
        raise InvalidInput(f"{name}: {error.field}", error.found, error.mend) from error
    except (ValueError, yaml.YAMLError) as error:
        raise InvalidInput(name, f"this is not YAML: {error}", "Mend the file.") from error
