"""config.pbtxt in Triton's JSON, as a model or a backend gets it."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from slipway_client._local_repository import LocalModel


def triton_json(model: LocalModel) -> dict[str, Any]:
    """Field names of the protobuf, defaults included, integers as integers."""
    config = type(model.config)()
    config.CopyFrom(model.config)
    config.name = config.name or model.name
    converted = json_format.MessageToDict(
        config, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _restore_integers(config, converted)
    return converted


def _restore_integers(message: Message, converted: dict[str, Any]) -> None:
    """Protobuf's JSON holds 64-bit integers as strings; Triton's holds numbers (`dims: [384]`)."""
    for field, value in message.ListFields():
        repeated = not isinstance(value, (Message, str, bytes, int, float))
        if field.type in (field.TYPE_INT64, field.TYPE_UINT64):
            converted[field.name] = list(value) if repeated else value
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key, entry in value.items():
                if isinstance(entry, Message):
                    _restore_integers(entry, converted[field.name][str(key)])
        elif field.message_type is not None:
            entries = zip(value, converted[field.name], strict=True) if repeated else [(value, converted[field.name])]
            for entry, target in entries:
                _restore_integers(entry, target)
