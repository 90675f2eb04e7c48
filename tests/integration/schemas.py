"""JSON schemas of every kind that answers must be able to follow."""

from typing import Any


def obj(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An object with just these properties, all required unless said otherwise."""
    fields = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**fields, "required": list(properties), **more}


def arr(items: Any, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


STRING: dict[str, Any] = {"type": "string", "maxLength": 12}
INTEGER: dict[str, Any] = {"type": "integer", "minimum": -9999, "maximum": 9999}
NODE = {"$ref": "#/$defs/node"}

SCHEMAS: dict[str, Any] = {
    # Scalars
    "string": STRING,
    "free string": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "const string": {"const": "always"},
    "const object": {"const": {"a": [1, None, "x"]}},
    "nullable": {"type": ["string", "null"], "maxLength": 5},
    "types": {"type": ["integer", "boolean", "null"], "minimum": 0, "maximum": 50},
    # Enums
    "enum": {"enum": ["red", "green", "blue"]},
    "enum of kinds": {"enum": [1, "one", None, True, [1], {"one": 1}]},
    "enum unicode": {"enum": ["Zürich", "東京", "🙂", 'say "hi"', "a\\b", "line\nbreak"]},
    "enum in object": obj({"size": {"enum": ["S", "M", "L"]}}),
    # Numbers with ranges
    "positive": {"type": "integer", "minimum": 1, "maximum": 1000},
    "negative": {"type": "integer", "minimum": -20, "maximum": -3},
    "exclusive": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 5},
    "one value": {"type": "integer", "minimum": 7, "maximum": 7},
    "multiple": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 500},
    "fraction": {"type": "number", "minimum": 0, "maximum": 1},
    "temperature": {"type": "number", "minimum": -273.15, "maximum": 100},
    "exclusive fraction": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 2.5},
    # Strings
    "digits": {"type": "string", "pattern": "^[0-9]{4}$"},
    "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    "alternatives": {"type": "string", "pattern": "^(yes|no|maybe)$"},
    "hex colour": {"type": "string", "pattern": "^#[0-9a-f]{6}$"},
    "prefix": {"type": "string", "pattern": "^id_[a-z]{1,8}$"},
    "lengths": {"type": "string", "minLength": 3, "maxLength": 6},
    "exact length": {"type": "string", "minLength": 4, "maxLength": 4},
    "empty string": {"type": "string", "maxLength": 0},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "date-time": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "email": {"type": "string", "format": "email"},
    # Arrays
    "strings": arr(STRING, maxItems=4),
    "bounds": arr(INTEGER, minItems=2, maxItems=4),
    "exact count": arr({"type": "boolean"}, minItems=3, maxItems=3),
    "empty array": arr(STRING, maxItems=0),
    "matrix": arr(arr(INTEGER, minItems=2, maxItems=2), minItems=2, maxItems=2),
    "tuple": {
        "type": "array",
        "prefixItems": [STRING, INTEGER, {"type": "boolean"}],
        "items": False,
        "minItems": 3,
    },
    "of enums": arr({"enum": ["a", "b"]}, minItems=1, maxItems=6),
    "of objects": arr(obj({"id": INTEGER}), minItems=1, maxItems=3),
    # Objects
    "flat": obj({"name": STRING, "age": {"type": "integer", "minimum": 0, "maximum": 150}}),
    "optional": obj({"name": STRING, "nick": STRING}, required=["name"]),
    "no properties": obj({}),
    "any object": {"type": "object", "maxProperties": 3},
    "additional": {"type": "object", "properties": {"a": INTEGER}, "additionalProperties": INTEGER, "required": ["a"]},
    "map": {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 3},
    "odd names": obj({"a b": INTEGER, 'q"uote': INTEGER, "ü": INTEGER, "": INTEGER}),
    "required beyond": {"type": "object", "properties": {"a": INTEGER}, "required": ["a", "b"]},
    "many": obj({f"field_{i}": {"type": "boolean"} for i in range(12)}),
    # Nested
    "nested": obj({"outer": obj({"middle": obj({"inner": STRING})})}),
    "order": obj(
        {
            "customer": obj({"name": STRING, "email": {"type": "string", "pattern": "^[a-z]{1,8}@[a-z]{1,8}\\.com$"}}),
            "lines": arr(
                obj({"item": STRING, "count": {"type": "integer", "minimum": 1, "maximum": 99}}), minItems=1, maxItems=2
            ),
            "paid": {"type": "boolean"},
        }
    ),
    "objects in arrays in objects": obj({"rows": arr(obj({"cells": arr(INTEGER, maxItems=2)}), maxItems=2)}),
    # Unions
    "anyOf": {"anyOf": [STRING, INTEGER, {"type": "null"}]},
    "anyOf objects": {"anyOf": [obj({"cat": STRING}), obj({"dog": INTEGER})]},
    "tagged": {
        "anyOf": [
            obj({"kind": {"const": "circle"}, "radius": {"type": "number", "minimum": 0, "maximum": 9}}),
            obj({"kind": {"const": "square"}, "side": INTEGER}),
        ]
    },
    "oneOf": {"oneOf": [obj({"kind": {"const": "a"}, "x": INTEGER}), obj({"kind": {"const": "b"}, "y": STRING})]},
    "optional by union": obj({"value": {"anyOf": [INTEGER, {"type": "null"}]}}),
    "allOf": {"allOf": [obj({"a": INTEGER}, additionalProperties=True), {"type": "object", "required": ["a"]}]},
    # References and recursion
    "reference": {"$defs": {"point": obj({"x": INTEGER, "y": INTEGER})}, "$ref": "#/$defs/point"},
    "two references": {
        "$defs": {"name": STRING},
        **obj({"first": {"$ref": "#/$defs/name"}, "last": {"$ref": "#/$defs/name"}}),
    },
    "linked list": {
        "$defs": {"node": obj({"value": {"enum": [0, 1]}, "next": {"anyOf": [{"type": "null"}, NODE]}})},
        **NODE,
    },
    "tree": {"$defs": {"node": obj({"leaf": {"type": "boolean"}, "children": arr(NODE, maxItems=2)})}, **NODE},
    "recursion at the root": obj({"child": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}),
    # What generators of schemas write
    "titles and defaults": obj(
        {"mood": {"title": "Mood", "description": "How it is.", "default": "fine", "enum": ["fine", "bad"]}},
        title="Report",
        description="A report.",
    ),
    "anything": {},
    "true": True,
}

IMPOSSIBLE: dict[str, Any] = {
    "false": False,
    "lengths": {"type": "string", "minLength": 5, "maxLength": 2},
    "range": {"type": "integer", "minimum": 5, "maximum": 2},
    "empty enum": {"enum": []},
    "unknown type": {"type": "text"},
    "unknown reference": {"$ref": "#/$defs/nowhere"},
    "not": {"not": {"type": "string"}},
    "unique": arr(STRING, uniqueItems=True),
    "no pattern": {"type": "string", "pattern": "("},
}
"""What can't be fulfilled, is wrong, or is not supported."""
